//! Standard streams of processes and workers that are not their parent's.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;

use proc_core::{Child, ErrorKind, Pool, Process, StartMethod, Stdio};

use crate::support::descriptors::{count_descriptors, descriptors, leave_descriptors};
use crate::support::marker_files::MarkerFiles;
use crate::support::procfs::children;
use crate::support::{
    Arguments, Finished, Program, Running, assert_snapshot, describe, own_arguments, own_file, run,
    wait_until,
};

programs![
    redirect_all_streams,
    every_stdio,
    stdio_of_workers,
    end_with_redirected_streams,
    start_processes_when_redirected,
    count_descriptors_of_streams,
    no_room_for_streams
];

tests! {
    streams_are_redirected: forkserver spawn fork;
    each_stream_is_as_asked_for: forkserver spawn fork;
    workers_have_the_streams_of_their_pool: forkserver spawn fork;
    text_arrives_however_a_process_ends: forkserver spawn fork;
    grandchildren_write_where_their_parent_does: forkserver spawn fork;
    nobody_keeps_a_copy_of_a_stream: forkserver spawn fork;
    no_room_for_streams_is_an_error: fork;
}

/// Starts a process with a pipe as one of its streams. Returns what it wrote, and its result.
fn written<F, R>(process: Process<F, ()>, stream: &str) -> (String, Result<R, proc_core::Error>)
where
    F: Fn(()) -> R + Copy + 'static,
    R: proc_core::Message,
{
    let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
    let process = match stream {
        "stdout" => process.stdout(writer),
        "stderr" => process.stderr(writer),
        other => panic!("no stream to write to: {other}"),
    };
    let child = process.start().expect("it can be started");
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("it is text");
    (text, child.join())
}

/// Redirects all three streams to pipes and files, while this process has half a line in its
/// buffer.
fn redirect_all_streams(arguments: &Arguments) {
    let marks = MarkerFiles::new();
    print!("half ");
    let copy = |()| {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).expect("it is text");
        print!("copy of {text}");
        eprint!("{} bytes", text.len());
        text.len()
    };
    let create = |name: &str| {
        let path = marks.path(name);
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        (options.expect("it is new"), path)
    };
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("it is there");
    let (reader, mut writer) = std::io::pipe().expect("a pipe can be made");
    let (stdout, out_path) = create("out");
    let (stderr, err_path) = create("err");
    writer.write_all(b"some input").expect("the child will read");
    drop(writer); // a forked process would have a copy of it
    let process = Process::new(copy, ()).stdin(reader).stdout(stdout).stderr(stderr);
    let child = process.start_method(arguments.start_method).start().expect("it can be started");
    assert_eq!(child.join().expect("it returns"), 10);
    println!("a line");
    println!("{:?} {:?}", read(out_path), read(err_path));
    // One file for two streams, and an input that is at its end.
    let (both, path) = create("both");
    let twice = both.try_clone().expect("there is room");
    let empty = File::open("/dev/null").expect("it exists");
    let process = Process::new(copy, ()).stdin(empty).stdout(both).stderr(twice);
    let child = process.start_method(arguments.start_method).start();
    assert_eq!(child.and_then(Child::join).expect("it returns"), 0);
    println!("{:?}", read(path));
}

fn streams_are_redirected(start_method: StartMethod) {
    assert_snapshot("redirected", 0, run(redirect_all_streams, start_method, &[]).succeeded());
}

fn read_all(_: ()) -> String {
    std::io::read_to_string(std::io::stdin()).expect("it is text")
}

/// Each [`Stdio`] for each stream; this program's stdin has "some input".
fn every_stdio(arguments: &Arguments) {
    let process = || Process::new(read_all, ()).start_method(arguments.start_method);
    let joined = |child: Result<Child<String>, proc_core::Error>| {
        child.and_then(Child::join).expect("it returns")
    };
    println!("default {:?}", joined(process().start()));
    println!("null {:?}", joined(process().stdin(Stdio::null()).start()));
    let mut child = process().stdin(Stdio::piped()).start().expect("it can be started");
    let mut stdin = child.stdin.take().expect("it was asked for");
    assert!(child.stdout.is_none() && child.stderr.is_none());
    stdin.write_all(b"through a pipe").expect("somebody reads");
    drop(stdin);
    println!("piped {:?}", child.join().expect("it returns"));
    let copy = |()| {
        std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).expect("both are there");
        eprint!("done");
    };
    let copy = Process::new(copy, ()).start_method(arguments.start_method);
    let all = copy.clone().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = all.start().expect("it can be started");
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { panic!("all are there") };
    stdin.write_all(b"there and back").expect("somebody reads");
    drop(stdin);
    let text = |reader| std::io::read_to_string(reader).expect("it is text");
    println!("all {:?} {:?}", text(stdout), text(stderr));
    child.join().expect("it returns");
    let dropped = copy.stdout(Stdio::null()).stderr(Stdio::null()).start();
    dropped.and_then(Child::join).expect("it returns");
    // A process that was given an input does not share it with its own processes by default.
    let below = |()| {
        let below = |stdin: Option<Stdio>| {
            let process = Process::new(read_all, ());
            let process = match stdin {
                Some(stdin) => process.stdin(stdin),
                None => process,
            };
            process.start().and_then(Child::join).expect("it returns")
        };
        (below(None), below(Some(Stdio::inherit())))
    };
    let (reader, mut writer) = std::io::pipe().expect("a pipe can be made");
    writer.write_all(b"given").expect("there is room");
    drop(writer);
    let child = Process::new(below, ()).start_method(arguments.start_method).stdin(reader).start();
    println!("below {:?}", child.and_then(Child::join).expect("it returns"));
    println!("inherited {:?}", joined(process().stdin(Stdio::inherit()).start()));
}

/// Runs a program that has something to read.
fn run_with_input(program: Program, start_method: StartMethod) -> Finished {
    let line = r#"printf "some input" | "$0" "$@""#;
    let mut command = Command::new("sh");
    command.env_clear().env("PATH", std::env::var_os("PATH").expect("there is a PATH"));
    command.args(["-c", line]).arg(own_file()).args(own_arguments(program, start_method));
    command.stdout(std::process::Stdio::piped());
    Running::start(command).finish()
}

fn each_stream_is_as_asked_for(start_method: StartMethod) {
    assert_snapshot("stdio", 0, run_with_input(every_stdio, start_method).succeeded());
}

/// Workers have the streams, environment and directory that their pool was given.
fn stdio_of_workers(arguments: &Arguments) {
    let builder = || Pool::builder().processes(1).start_method(arguments.start_method);
    let pool = builder().build().expect("it can be built");
    println!("default {:?}", pool.apply(read_all, ()).expect("it returns"));
    drop(pool);
    for (name, piped) in [
        ("stdin", builder().stdin(Stdio::piped())),
        ("stdout", builder().stdout(Stdio::piped())),
        ("stderr", builder().stderr(Stdio::piped())),
    ] {
        println!("{name} {}", describe(&piped.build().expect_err("nobody would hold its end")));
    }
    let (out, to_out) = std::io::pipe().expect("a pipe can be made");
    let (err, to_err) = std::io::pipe().expect("a pipe can be made");
    let pool = builder().stdin(Stdio::inherit()).stdout(to_out).stderr(to_err);
    let pool = pool.env("GREETING", "hello").current_dir("/").build().expect("it can be built");
    let work = |()| {
        println!("{}", std::env::var("GREETING").expect("it is set"));
        eprintln!("{}", std::env::current_dir().expect("it is there").display());
        read_all(())
    };
    println!("inherited {:?}", pool.apply(work, ()).expect("it returns"));
    drop(pool);
    let text = |reader| std::io::read_to_string(reader).expect("it is text");
    println!("{:?} {:?}", text(out), text(err));
}

fn workers_have_the_streams_of_their_pool(start_method: StartMethod) {
    let finished = run_with_input(stdio_of_workers, start_method);
    assert_snapshot("stdio_of_workers", 1, finished.succeeded());
}

/// The output arrives whole, however the process ends.
fn end_with_redirected_streams(arguments: &Arguments) {
    let returns = |()| print!("returned");
    let exits = |()| -> () {
        print!("exited");
        std::process::exit(3)
    };
    let panics = |()| -> () { panic!("told to") };
    let many = |()| (0..20_000).for_each(|line| println!("line {line}"));
    let start_method = arguments.start_method;
    println!("{:?}", written(Process::new(returns, ()).start_method(start_method), "stdout").0);
    println!("{:?}", written(Process::new(exits, ()).start_method(start_method), "stdout").0);
    let (text, joined) = written(Process::new(panics, ()).start_method(start_method), "stderr");
    assert!(joined.expect_err("it panics").is_panic());
    println!("{}", text.matches("told to").count());
    let (text, _) = written(Process::new(many, ()).start_method(start_method), "stdout");
    assert!(text.lines().eq((0..20_000).map(|line| format!("line {line}"))));
    // Nobody reads.
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    let write = |()| writeln!(std::io::stdout(), "lost").map_err(|error| error.to_string());
    let child = Process::new(write, ()).stdout(writer).start_method(start_method).start();
    println!("{:?}", child.and_then(Child::join).expect("it returns"));
}

fn text_arrives_however_a_process_ends(start_method: StartMethod) {
    assert_snapshot(
        "redirected_ends",
        0,
        run(end_with_redirected_streams, start_method, &[]).succeeded(),
    );
}

/// Processes of a redirected process write to the same stream as their parent.
fn start_processes_when_redirected(arguments: &Arguments) {
    let work = |()| {
        println!("child");
        for start_method in [StartMethod::Forkserver, StartMethod::Spawn, StartMethod::Fork] {
            let below =
                Process::new(|()| println!("grandchild"), ()).start_method(start_method).start();
            below.and_then(Child::join).expect("it returns");
        }
        let pool = Pool::builder().processes(1).build().expect("it can be built");
        pool.apply(|()| println!("worker"), ()).expect("it returns");
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        let below = Process::new(|()| print!("own"), ()).stdout(writer).start();
        below.and_then(Child::join).expect("it returns");
        println!("{}", std::io::read_to_string(reader).expect("it is text"));
    };
    let (text, joined) =
        written(Process::new(work, ()).start_method(arguments.start_method), "stdout");
    joined.expect("it returns");
    println!("{text:?}");
}

fn grandchildren_write_where_their_parent_does(start_method: StartMethod) {
    assert_snapshot(
        "redirected_below",
        0,
        run(start_processes_when_redirected, start_method, &[]).succeeded(),
    );
}

/// How many descriptors a fork server that serves one process has at most. The test makes more
/// streams than this.
const MAX_OF_FORK_SERVER: usize = 20;

/// Neither the program nor its fork servers keep descriptors of redirected streams.
fn count_descriptors_of_streams(arguments: &Arguments) {
    let plain = Process::new(|()| descriptors(), ()).start_method(arguments.start_method);
    let expected = plain.clone().start().and_then(Child::join).expect("it returns");
    let of_fork_servers = || -> usize {
        let links = |pid: u32| Some(std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count());
        children().into_iter().filter_map(links).sum()
    };
    // A fork server closes its end of a report channel just after it has reported the exit. The
    // fork server of a `Fork` process is reaped, and its pipe closed, at once or when a later
    // process is started. So the limit is the highest of several counts.
    let mut before = (0, 0);
    for _ in 0..10 {
        plain.clone().start().and_then(Child::join).expect("it returns");
        before.0 = before.0.max(count_descriptors());
        before.1 = before.1.max(of_fork_servers());
    }
    for _ in 0..50 {
        let null = || OwnedFd::from(File::open("/dev/null").expect("it exists"));
        // The fork server's stdin is /dev/null too, so the kinds of descriptors are the same.
        let process = plain.clone().stdin(null());
        let seen = process.start().and_then(Child::join).expect("it returns");
        assert_eq!(seen, expected);
        let (reader, writer) = std::io::pipe().expect("a pipe can be made");
        let process = plain.clone().stdout(writer).current_dir("/nowhere");
        assert!(process.start().and_then(Child::join).is_err());
        drop(reader);
    }
    // Perhaps the fork server was already reaped at each count above. Then one that is not reaped
    // yet may add its pipe now.
    wait_until(|| {
        plain.clone().start().and_then(Child::join).expect("it returns");
        count_descriptors() <= before.0 + 1
    });
    wait_until(|| {
        plain.clone().start().and_then(Child::join).expect("it returns");
        of_fork_servers() <= before.1.max(MAX_OF_FORK_SERVER)
    });
    println!("flat");
}

fn nobody_keeps_a_copy_of_a_stream(start_method: StartMethod) {
    assert_eq!(run(count_descriptors_of_streams, start_method, &[]).succeeded(), "flat\n");
}

/// A `Fork` process with redirected streams is started while few descriptors are left.
fn no_room_for_streams(arguments: &Arguments) {
    let start = || {
        let null = || File::open("/dev/null");
        let process = Process::new(|()| 7, ()).start_method(arguments.start_method);
        let streams = (null(), null(), null());
        let (Ok(a), Ok(b), Ok(c)) = streams else { return None };
        let process = process.stdin(a).stdout(b).stderr(c);
        Some(move || process.start().and_then(Child::join))
    };
    let ready = start().expect("there is room");
    let files = leave_descriptors(arguments.number());
    let result = ready();
    drop(files);
    match result {
        Ok(number) => println!("{number}"),
        Err(error) => {
            assert!(error.kind() == ErrorKind::Start, "{}", describe(&error));
            println!("refused");
        }
    }
    let again = start().expect("there is room");
    println!("{}", again().expect("there is room again"));
}

fn no_room_for_streams_is_an_error(start_method: StartMethod) {
    let told = |room: usize| {
        let finished = run(no_room_for_streams, start_method, &[&room.to_string()]);
        assert!(finished.status.success(), "{room}: {}", finished.stderr);
        finished.stdout
    };
    for room in [0, 1, 2, 4, 6, 8, 10, 11, 12, 13, 14, 16, 18, 20] {
        let told = told(room);
        assert!(["7\n7\n", "refused\n7\n"].contains(&told.as_str()), "{room}: {told}");
    }
    assert_eq!(told(0), "refused\n7\n");
    assert_eq!(told(40), "7\n7\n");
}
