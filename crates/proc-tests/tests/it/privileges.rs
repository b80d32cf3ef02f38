//! A new worker or process has no more rights than its program has at that moment.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::unistd::{self, Gid, Uid, setgroups};
use proc_core::{Child, Error, Pool, Process, StartMethod};
use serde::{Deserialize, Serialize};

use crate::support::{Arguments, describe, machine, raw, run, signal_self};

programs![
    give_up_user,
    #[without_init]
    give_up_privileges,
    #[without_init]
    start_in_two_threads
];

tests! {
    capabilities_given_up_stay_away: forkserver spawn fork;
    bounding_sets_stay_empty: forkserver spawn fork;
    groups_given_up_stay_away: forkserver spawn fork;
    no_new_privs_and_filters_hold_for_all: forkserver spawn fork;
    sandboxes_hold_for_all: forkserver spawn fork;
    namespaces_are_left_by_all: forkserver spawn fork;
    changed_roots_hold_for_all: forkserver spawn fork;
    program_that_gives_up_nothing_keeps_all_rights: forkserver spawn fork;
    user_that_was_given_up_is_given_up_for_children: forkserver spawn fork;
    threads_that_start_at_once_give_their_own_rights: forkserver spawn;
}

/// What a process may do, as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Rights {
    pid: u32,
    /// Inheritable, permitted, effective, bounding, ambient.
    capabilities: Vec<u64>,
    groups: BTreeSet<u32>,
    no_new_privs: u32,
    seccomp: u32,
    namespaces: Vec<(String, String)>,
    root: (u64, u64),
}

/// The rights of this process. Without /proc only its root directory is known.
fn look(_: ()) -> Rights {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"].map(field);
    let namespaces = ["net", "uts", "ipc", "mnt", "cgroup", "user", "pid"].map(|name| {
        let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
        (name.to_owned(), link.to_string_lossy().into_owned())
    });
    let root = std::fs::metadata("/").expect("there is a root directory");
    Rights {
        pid: std::process::id(),
        capabilities: sets.iter().filter_map(|set| u64::from_str_radix(set, 16).ok()).collect(),
        groups: field("Groups:").split(' ').filter_map(|group| group.parse().ok()).collect(),
        no_new_privs: field("NoNewPrivs:").parse().unwrap_or_default(),
        seccomp: field("Seccomp:").parse().unwrap_or_default(),
        namespaces: namespaces.into(),
        root: (root.dev(), root.ino()),
    }
}

impl Rights {
    /// The rights that these have and `others` do not have.
    fn beyond(&self, others: &Rights) -> Vec<String> {
        let mut more = Vec::new();
        let sets = self.capabilities.iter().zip(&others.capabilities);
        for ((mine, other), name) in sets.zip(["Inh", "Prm", "Eff", "Bnd", "Amb"]) {
            if mine & !other != 0 {
                more.push(format!("Cap{name} {:x}", mine & !other));
            }
        }
        more.extend(self.groups.difference(&others.groups).map(|group| format!("group {group}")));
        if self.no_new_privs < others.no_new_privs {
            more.push("new privileges".into());
        }
        if self.seccomp < others.seccomp {
            more.push("no filter".into());
        }
        let spaces = self.namespaces.iter().zip(&others.namespaces);
        more.extend(spaces.filter(|(mine, other)| mine != other).map(|(mine, _)| mine.0.clone()));
        if self.root != others.root {
            more.push("another root directory".into());
        }
        more
    }
}

/// Where a new root directory is made, in mounts that only this process sees.
const ROOT: &str = "/mnt";

/// Prepares what must be done before `init`.
fn prepare(way: &str) {
    setgroups(&[Gid::from_raw(1001), Gid::from_raw(1002)]).expect("root may");
    if way.starts_with("chroot") {
        raw::own_mounts();
        raw::hide(ROOT);
    }
    if way == "chroot-whole" {
        let entries = std::fs::read_dir("/").expect("there is a root directory");
        let entries: Vec<_> = entries.map(|entry| entry.expect("it can be read")).collect();
        for entry in entries {
            let (from, to) = (entry.path(), format!("{ROOT}/{}", entry.file_name().display()));
            let kind = entry.file_type().expect("it can be asked");
            if kind.is_symlink() {
                let target = std::fs::read_link(&from).expect("it is a link");
                std::os::unix::fs::symlink(target, to).expect("it is new");
            } else if kind.is_dir() && from.as_os_str() != ROOT {
                std::fs::create_dir(&to).expect("it is new");
                raw::show(&from.to_string_lossy(), &to);
            }
        }
    }
}

/// Gives up rights in one way.
fn give_up(way: &str) {
    let all = look(()).capabilities.get(1).copied().unwrap_or_default();
    let administration = 1 << 21 | 1 << 12; // CAP_SYS_ADMIN, CAP_NET_ADMIN
    let no_new_privs = || nix::sys::prctl::set_no_new_privs().expect("every process may set it");
    let apart = |what| unshare(what).expect("root may");
    match way {
        "nothing" => {}
        "capabilities" => raw::set_capabilities(0, 0),
        "some-capabilities" => raw::set_capabilities(all & !administration, all & !administration),
        "effective" => raw::set_capabilities(0, all),
        "bounding" => raw::drop_bounding_set(),
        "all-capabilities" => {
            raw::drop_bounding_set();
            raw::set_capabilities(0, 0);
        }
        "groups" => setgroups(&[]).expect("root may"),
        "one-group" => setgroups(&[Gid::from_raw(1001)]).expect("root may"),
        "no-new-privs" => no_new_privs(),
        "seccomp" => raw::refuse(raw::number_of("nothing"), Errno::EPERM),
        "sandbox" => {
            no_new_privs();
            setgroups(&[]).expect("root may");
            raw::drop_bounding_set();
            raw::set_capabilities(0, 0);
            raw::refuse(raw::number_of("nothing"), Errno::EPERM);
        }
        "net" => apart(CloneFlags::CLONE_NEWNET),
        "uts" => apart(CloneFlags::CLONE_NEWUTS),
        "ipc" => apart(CloneFlags::CLONE_NEWIPC),
        "mount" => raw::own_mounts(),
        "cgroup" => apart(CloneFlags::CLONE_NEWCGROUP),
        "chroot-empty" | "chroot-whole" => {
            nix::unistd::chroot(ROOT).expect("root may");
            std::env::set_current_dir("/").expect("there is a root directory");
        }
        other => panic!("no such way: {other}"),
    }
}

/// Prints whether a process has more rights than this program has now, or the same.
fn judge(what: &str, theirs: Result<Rights, Error>) {
    let mine = look(());
    match theirs {
        Ok(theirs) => match theirs.beyond(&mine) {
            more if more.is_empty() && mine.beyond(&theirs).is_empty() => {
                println!("{what}: the same");
            }
            more if more.is_empty() => println!("{what}: no more"),
            more => println!("{what}: MORE: {}", more.join(", ")),
        },
        Err(error) => println!("{what}: refused: {}", describe(&error)),
    }
}

/// Kills the worker, and returns the rights of the next one.
fn replaced(pool: &Pool, before: u32) -> Result<Rights, Error> {
    let died = pool.apply(|()| signal_self(Signal::SIGKILL), ());
    assert!(died.is_err_and(|error| error.is_death()));
    let rights = pool.apply(look, ())?;
    assert_ne!(rights.pid, before, "the worker was replaced");
    Ok(rights)
}

/// Gives up rights in one way, and looks at the rights of processes that are started in the ways
/// that the other arguments name.
fn give_up_privileges(arguments: &Arguments) {
    let (way, stages) = arguments.rest.split_first().expect("a way is named");
    prepare(way);
    proc_core::init();
    let start_method = arguments.start_method;
    let is_asked = |stage: &str| stages.iter().any(|asked| asked == stage);
    let builder = || Pool::builder().processes(1).start_method(start_method);
    let before = |pool: Result<Pool, Error>| {
        let pool = pool.expect("it can be built");
        let pid = pool.apply(look, ()).expect("nothing fails").pid;
        (pool, pid)
    };
    let plain = is_asked("replaced").then(|| before(builder().build()));
    let preloaded =
        is_asked("preloaded").then(|| before(builder().preload(|_: ()| (), ()).build()));
    if is_asked("forkserver") {
        // With `Spawn` this executes a fork server.
        let first = Process::new(look, ()).start_method(start_method).start().and_then(Child::join);
        first.expect("it returns");
    }
    give_up(way);
    if is_asked("process") {
        judge(
            "process",
            Process::new(look, ()).start_method(start_method).start().and_then(Child::join),
        );
    }
    if is_asked("nested") {
        let nested = |()| {
            let child = Process::new(look, ()).start_method(StartMethod::Forkserver).start();
            child.and_then(Child::join).map_err(|error| error.to_string())
        };
        let child =
            Process::new(nested, ()).start_method(start_method).start().and_then(Child::join);
        judge("nested", child.map(|nested| nested.expect("a child may have children")));
    }
    if is_asked("pool") {
        judge("pool", builder().build().and_then(|pool| pool.apply(look, ())));
    }
    if is_asked("preload") {
        let pool = builder().preload(|_: ()| (), ()).build();
        judge("preload", pool.and_then(|pool| pool.apply(look, ())));
    }
    for (what, made) in [("replaced", &plain), ("preloaded", &preloaded)] {
        if let Some((pool, pid)) = made {
            judge(what, replaced(pool, *pid));
        }
    }
}

/// Processes that are started after rights were given up.
const LATER: [&str; 4] = ["process", "nested", "pool", "preload"];

/// Pools that were built before, and start a worker anew.
const EARLIER: [&str; 2] = ["replaced", "preloaded"];

fn expect_no_more(start_method: StartMethod, ways: &[&str]) {
    if machine::or_skip(machine::root()).is_none() {
        return;
    }
    for way in ways {
        let look = |stages: &[&str]| {
            let finished = run(give_up_privileges, start_method, &[&[*way], stages].concat());
            let told = finished.succeeded();
            assert_eq!(told.lines().count(), stages.iter().filter(|s| **s != "forkserver").count());
            for line in told.lines() {
                let (what, came) = line.split_once(": ").expect("each line names a stage");
                assert!(!came.starts_with("MORE"), "{way}: {line}");
                // An empty root directory has no program to execute. And a pool that was built
                // before may have no fork server left that could start workers.
                let may_fail = *way == "chroot-empty" || EARLIER.contains(&what);
                let is_right = match (*way, came) {
                    (_, "the same") => true,
                    ("nothing", _) => false,
                    (_, "no more") => true,
                    _ => may_fail && came.starts_with("refused: "),
                };
                assert!(is_right, "{way}: {line}");
            }
        };
        if start_method == StartMethod::Fork {
            // With `Fork` nothing can be started once a pool has threads.
            LATER.iter().chain(&EARLIER).for_each(|stage| look(&[stage]));
        } else {
            look(&LATER);
            look(&[&["forkserver"], &LATER[..]].concat());
            look(&EARLIER);
        }
    }
}

fn capabilities_given_up_stay_away(start_method: StartMethod) {
    expect_no_more(start_method, &["capabilities", "some-capabilities", "effective"]);
}

fn bounding_sets_stay_empty(start_method: StartMethod) {
    expect_no_more(start_method, &["bounding", "all-capabilities"]);
}

fn groups_given_up_stay_away(start_method: StartMethod) {
    expect_no_more(start_method, &["groups", "one-group"]);
}

fn no_new_privs_and_filters_hold_for_all(start_method: StartMethod) {
    expect_no_more(start_method, &["no-new-privs", "seccomp"]);
}

fn sandboxes_hold_for_all(start_method: StartMethod) {
    expect_no_more(start_method, &["sandbox"]);
}

fn namespaces_are_left_by_all(start_method: StartMethod) {
    expect_no_more(start_method, &["net", "uts", "ipc", "mount", "cgroup"]);
}

fn changed_roots_hold_for_all(start_method: StartMethod) {
    expect_no_more(start_method, &["chroot-whole", "chroot-empty"]);
}

fn program_that_gives_up_nothing_keeps_all_rights(start_method: StartMethod) {
    expect_no_more(start_method, &["nothing"]);
}

/// The program was started as root, and becomes another user.
fn give_up_user(arguments: &Arguments) {
    const NOBODY: u32 = 65534;
    let before = Process::new(user_and_group_ids, ()).start_method(arguments.start_method).start();
    println!("before {:?}", before.and_then(Child::join).expect("it returns"));
    // The other user may use the directory for temporary files.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(std::env::temp_dir(), open).expect("it is ours");
    unistd::setgid(Gid::from_raw(NOBODY)).expect("root may");
    unistd::setuid(Uid::from_raw(NOBODY)).expect("root may");
    let after = Process::new(user_and_group_ids, ()).start_method(arguments.start_method).start();
    println!("process {:?}", after.and_then(Child::join).expect("it returns"));
    println!("worker {:?}", arguments.pool(1).apply(user_and_group_ids, ()).expect("it returns"));
}

fn user_that_was_given_up_is_given_up_for_children(start_method: StartMethod) {
    if machine::or_skip(machine::root()).is_none() {
        return;
    }
    assert_eq!(
        run(give_up_user, start_method, &[]).succeeded(),
        "before [0, 0, 0, 0]\n\
         process [65534, 65534, 65534, 65534]\n\
         worker [65534, 65534, 65534, 65534]\n"
    );
}

fn user_and_group_ids(_: ()) -> [u32; 4] {
    let users = [unistd::getuid(), unistd::geteuid()].map(Uid::as_raw);
    let groups = [unistd::getgid(), unistd::getegid()].map(Gid::as_raw);
    [users[0], users[1], groups[0], groups[1]]
}

/// Two threads start the first processes of the program at the same moment. One of them has given
/// up its capabilities. Prints the effective capabilities of both processes.
fn start_in_two_threads(arguments: &Arguments) {
    let start_method = arguments.start_method;
    let both_are_here = std::sync::Barrier::new(2);
    let start = |gives_up: bool| {
        if gives_up {
            raw::set_capabilities(0, 0);
        }
        both_are_here.wait();
        let child = Process::new(look, ()).start_method(start_method).start();
        child.and_then(Child::join).expect("it returns").capabilities[2]
    };
    let start = &start;
    let [low, high] = std::thread::scope(|scope| {
        let threads = [true, false].map(|gives_up| scope.spawn(move || start(gives_up)));
        threads.map(|thread| thread.join().expect("it does not panic"))
    });
    println!("{low} {}", high == look(()).capabilities[2]);
}

fn threads_that_start_at_once_give_their_own_rights(start_method: StartMethod) {
    if machine::or_skip(machine::root()).is_none() {
        return;
    }
    for _ in 0..20 {
        assert_eq!(run(start_in_two_threads, start_method, &[]).succeeded(), "0 true\n");
    }
}
