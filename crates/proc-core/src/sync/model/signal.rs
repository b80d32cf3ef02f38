//! The model check of [`Event`] and [`Condition`].

use std::sync::atomic::Ordering::Relaxed;

use super::super::condition::Condition;
use super::super::event::Event;
use super::super::lock::Lock;
use super::*;
use crate::memory::atomics::AtomicU32;
use crate::memory::loom::{Channel, tick};

/// An event, and what must be seen once it is set.
struct Announced {
    event: Event,
    data: AtomicU32,
}

impl Announced {
    fn new() -> Arc<Announced> {
        let event = Event::new().expect("there is memory");
        assert!(!event.is_set());
        Arc::new(Announced { event, data: AtomicU32::default() })
    }

    fn set(&self) {
        self.data.store(1, Relaxed);
        self.event.set();
    }

    fn wait(&self) {
        self.event.wait();
        assert_eq!(self.data.load(Relaxed), 1, "the waiter sees what was written before");
    }
}

fn start_user(
    announced: &Arc<Announced>,
    id: u32,
    life: usize,
    process: fn(&Announced),
) -> JoinHandle<bool> {
    let announced = Arc::clone(announced);
    start(id, life, move || process(&announced), ignore)
}

#[test]
fn set_event_wakes_all() {
    check(3, || {
        begin(3);
        let announced = Announced::new();
        let waiters = [2, 3].map(|id| start_user(&announced, id, UNHARMED, Announced::wait));
        announced.set();
        join_all(waiters);
    });
}

#[test]
fn event_that_is_cleared_and_set_again_wakes() {
    check(3, || {
        begin(2);
        let announced = Announced::new();
        let waiter = start_user(&announced, 2, UNHARMED, Announced::wait);
        announced.event.clear();
        announced.set();
        announced.event.clear();
        announced.set();
        join_all([waiter]);
    });
}

#[test]
fn death_of_the_setter_at_any_operation_wakes_all_or_leaves_the_event_to_others() {
    check_killed(1, 3, |life| {
        begin(4);
        let announced = Announced::new();
        let waiters = [2, 3].map(|id| start_user(&announced, id, UNHARMED, Announced::wait));
        let is_alive = start_user(&announced, 4, life, Announced::set).join();
        let is_alive = is_alive.expect("it does not panic");
        if !announced.event.is_set() {
            assert!(!is_alive);
            announced.set();
        }
        join_all(waiters);
        is_alive
    });
}

#[test]
fn death_of_a_waiter_at_any_operation_changes_nothing_for_the_other() {
    check_killed(2, 3, |life| {
        begin(3);
        let announced = Announced::new();
        let killed = start_user(&announced, 2, life, Announced::wait);
        let other = start_user(&announced, 3, UNHARMED, Announced::wait);
        announced.set();
        join_all([other]);
        killed.join().expect("it does not panic")
    });
}

/// Things that processes take, a lock around their number, and a condition for it.
struct Stock {
    lock: Lock,
    changed: Condition,
    things: AtomicU32,
    /// The ends of the processes that [`start_taker`] has started.
    ends: Arc<Channel<bool>>,
}

impl Stock {
    fn new() -> Arc<Stock> {
        let (lock, changed) = (Lock::new(), Condition::new());
        let (lock, changed) = (lock.expect("there is memory"), changed.expect("there is memory"));
        drop(lock.lock());
        changed.notify_all();
        Arc::new(Stock { lock, changed, things: AtomicU32::default(), ends: Channel::new() })
    }

    fn put(&self) {
        let guard = self.lock.lock().expect("this thread does not have it");
        self.things.store(self.things.load(Relaxed) + 1, Relaxed);
        drop(guard);
        self.changed.notify_one();
    }

    fn take(&self) {
        let guard = self.lock.lock().expect("this thread does not have it");
        let guard = self.changed.wait_while(guard, |()| self.things.load(Relaxed) == 0);
        let guard = guard.expect("this thread does not have it");
        self.things.store(self.things.load(Relaxed) - 1, Relaxed);
        drop(guard);
    }

    /// Waits for a thing, but not long.
    fn take_hastily(&self) {
        let guard = self.lock.lock().expect("this thread does not have it");
        if self.things.load(Relaxed) == 0 {
            let (_guard, was_woken) =
                self.changed.wait_timeout(guard, ONE_TICK).expect("this thread does not have it");
            if was_woken && self.things.load(Relaxed) > 0 {
                self.things.store(self.things.load(Relaxed) - 1, Relaxed);
            }
        }
    }
}

/// Starts process `id`, whose end comes through the channel.
fn start_taker(stock: &Arc<Stock>, id: u32, life: usize, take: fn(&Stock)) -> JoinHandle<()> {
    let stock = Arc::clone(stock);
    thread::spawn(move || stock.ends.send(play(id, life, || take(&stock), ignore)))
}

#[test]
fn each_notification_wakes_a_waiter() {
    check(2, || {
        begin(3);
        let stock = Stock::new();
        let takers = [2, 3].map(|id| start_taker(&stock, id, UNHARMED, Stock::take));
        stock.put();
        stock.put();
        for taker in takers {
            taker.join().expect("it does not panic");
        }
        assert_eq!(stock.things.load(Relaxed), 0);
    });
}

#[test]
fn death_of_a_waiter_at_any_operation_leaves_its_notification_to_the_other() {
    check_killed(1, 12, |life| {
        begin(3);
        let stock = Stock::new();
        let takers =
            [(2, life), (3, UNHARMED)].map(|(id, life)| start_taker(&stock, id, life, Stock::take));
        stock.put();
        let mut is_alive = stock.ends.receive();
        // The second thing is put only if the first one was taken.
        if stock.things.load(Relaxed) == 0 {
            stock.put();
        }
        is_alive &= stock.ends.receive();
        for taker in takers {
            taker.join().expect("it does not panic");
        }
        is_alive
    });
}

#[test]
fn death_of_the_notifier_at_any_operation_wakes_the_waiter() {
    check_killed(2, 8, |life| {
        begin(3);
        let stock = Stock::new();
        let taker = start_taker(&stock, 2, UNHARMED, Stock::take);
        let putter = start_taker(&stock, 3, life, Stock::put);
        let mut is_alive = stock.ends.receive();
        putter.join().expect("it does not panic");
        // If the notifier has put nothing, another one does.
        if !is_alive && stock.things.load(Relaxed) == 0 {
            stock.put();
        }
        is_alive &= stock.ends.receive();
        taker.join().expect("it does not panic");
        is_alive
    });
}

#[test]
fn waiter_that_gives_up_does_not_keep_the_notification_of_another() {
    check(2, || {
        begin(3);
        let stock = Stock::new();
        let hasty = start_taker(&stock, 2, UNHARMED, Stock::take_hastily);
        let patient = start_taker(&stock, 3, UNHARMED, Stock::take);
        stock.put();
        tick();
        stock.ends.receive();
        let has_taken = stock.things.load(Relaxed) == 0;
        if has_taken {
            stock.put();
        }
        hasty.join().expect("it does not panic");
        patient.join().expect("it does not panic");
    });
}
