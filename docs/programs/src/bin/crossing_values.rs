//! Values of several kinds, to a worker and back.

use anyhow::Result;
use proc_core::ipc::{self, IpcSender};
use proc_core::{Pool, Process};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Point {
    x: f64,
    y: f64,
}

fn total(numbers: Vec<f64>) -> f64 {
    numbers.iter().sum()
}

fn shout(text: String) -> String {
    text.to_uppercase()
}

fn backwards(data: Vec<u8>) -> Vec<u8> {
    data.into_iter().rev().collect()
}

fn repeat((word, times): (String, usize)) -> String {
    word.repeat(times)
}

fn mirror(point: Point) -> Point {
    Point { x: point.y, y: point.x }
}

fn count(sender: IpcSender<u32>) {
    for number in 0..2 {
        sender.send(number).expect("somebody receives it");
    }
}

fn main() -> Result<()> {
    proc_core::init();
    let pool = Pool::builder().processes(2).build()?;
    println!("{}", pool.apply(total, vec![1.0, 2.5])?);
    println!("{}", pool.apply(shout, "text".to_owned())?);
    println!("{:?}", pool.apply(backwards, vec![1, 2])?);
    println!("{}", pool.apply(repeat, ("ab".into(), 3))?);
    let point = Point { x: 1.5, y: 2.5 };
    let point = pool.apply(mirror, point)?;
    println!("{} {}", point.x, point.y);

    let (sender, receiver) = ipc::channel()?;
    let child = Process::new(count, sender).start()?;
    let numbers = [receiver.recv()?, receiver.recv()?];
    println!("{numbers:?}");
    child.join()?;
    Ok(())
}
