//! Seeds of tasks: they depend on the call's seed and on the task alone, on a fleet as on a pool.

use std::time::Duration;

use proc_core::Pool;

use crate::support::Server;

/// What tasks draw from their seeds. It depends on the call's seed and on the task alone.
fn draw(sides: &u64, _: ()) -> (u64, Option<usize>) {
    let this = proc_cluster::current();
    (this.seed() % sides, this.task())
}

#[test]
fn seeds_are_those_of_a_pool() {
    let Some(server) = Server::start() else { return };
    let (cluster, _agents) = server.fleet(2);
    let pool = Pool::builder().processes(2).build().expect("there is room");
    let sides = u64::MAX;
    let on_pool = pool.options().seed(7).with(sides).map(draw, [(); 500]).expect("nothing fails");
    assert!(on_pool.iter().map(|(_, task)| *task).eq((0..500).map(Some)));
    for chunksize in [None, Some(1), Some(7)] {
        let options = cluster.options().seed(7);
        let options = chunksize.map_or(options.clone(), |tasks| options.chunksize(tasks));
        let with = options.with(sides);
        assert_eq!(with.map(draw, [(); 500]).expect("nothing fails"), on_pool, "{chunksize:?}");
        let ordered: Result<Vec<_>, _> = with.imap(draw, [(); 500]).collect();
        assert_eq!(ordered.expect("nothing fails"), on_pool, "{chunksize:?}");
    }
    let plain = |_: ()| proc_cluster::current().seed();
    let seeds = [
        pool.options().seed(7).map(plain, [(); 500]).expect("nothing fails"),
        cluster.options().seed(7).map(plain, [(); 500]).expect("nothing fails"),
    ];
    assert_eq!(seeds[0], seeds[1]);
    assert!(seeds[0].iter().copied().eq(on_pool.iter().map(|(seed, _)| *seed)));
    let other = cluster.options().seed(8).map(plain, [(); 500]).expect("nothing fails");
    assert!(other.iter().zip(&seeds[0]).all(|(a, b)| a != b), "another seed, other numbers");
    // Without a seed, nobody can predict them.
    let [a, b] = [0, 1].map(|_| cluster.map(plain, [(); 500]).expect("nothing fails"));
    assert!(a.iter().zip(&b).all(|(a, b)| a != b));
}

#[test]
fn seeds_do_not_change_when_a_task_runs_again() {
    let Some(server) = Server::start() else { return };
    let (cluster, mut agents) = server.fleet(2);
    let pool = Pool::builder().processes(1).build().expect("there is room");
    let slow = |millis: &u64, _: ()| {
        std::thread::sleep(Duration::from_millis(*millis));
        proc_cluster::current().seed()
    };
    let expected = pool.options().seed(1).with(0).map(slow, [(); 600]).expect("nothing fails");
    let with = cluster.options().seed(1).with(5);
    let mut seeds = with.imap(slow, [(); 600]);
    let mut drawn: Vec<u64> =
        seeds.by_ref().take(100).collect::<Result<_, _>>().expect("nothing fails");
    agents.remove(0).kill();
    drawn.extend(seeds.map(|seed| seed.expect("nothing fails")));
    assert_eq!(drawn, expected);
}
