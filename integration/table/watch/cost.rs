//! How much processor time the watch takes, and how soon the table is restored.

#![expect(clippy::print_stdout, reason = "a run with --nocapture shows its figures")]

use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use autoport::event::Silent;
use autoport::kernel::{Events, Extent, Nft, Woken};
use autoport::model::{Protocol, Record};
use autoport::ruleset::Place;
use autoport::store::Store;

use super::{LOOKS, PATIENCE, Watch, dropped, looks};
use crate::stage::bare::{add, attachment, network, tcp};
use crate::stage::netns::{elsewhere, in_one_transaction, nft, run as tool};
use crate::stage::node::Node;
use crate::stage::plugin::Plugin;
use crate::stage::records::{map, policy, record, ruleset as table_of};
use crate::stage::view::STATE;

#[test]
fn a_watch_that_waits_takes_no_time() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let watch = Watch::start();
    nft("flush ruleset");
    watch.wait_for("the table", || watch.said().contains("built table"));
    // Until it has given its memory back.
    thread::sleep(Duration::from_millis(1500));
    let spent = || (watch.ticks(), watch.status("voluntary_ctxt_switches"));
    let before = spent();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(spent(), before, "ticks and switches");
    println!("an idle watch has {} in memory", watch.status("VmRSS"));
}

/// It is not told what it does itself: of each element of a table that is built again, which is more than there is
/// room for, and takes the kernel a third of the time.
#[test]
fn one_damage_is_one_look() {
    let records = in_one_transaction(5_000).max(1);
    elsewhere(|| {
        fill(records, 1);
        let watch = Watch::start_under(&LOOKS);
        // It builds the table first.
        for times in 1..=2 {
            watch.wait_for("the table", || watch.said().matches("built table").count() == times);
            thread::sleep(Duration::from_secs(1));
            assert_eq!(dropped(), 0, "of what {records} records imply");
            assert_eq!(looks(), times, "{}", watch.said());
            nft("flush ruleset");
        }
        watch.wait_for("the table", || watch.said().matches("built table").count() == 3);
    });
}

/// A tool that undoes it again and again gets an answer, but ever more rarely.
#[test]
fn a_fight_is_bounded() {
    let node = Node::new();
    let web = attachment(&node, &network("blue"), "web", 5).mapping([tcp(8080)]);
    add(&node, &web);
    let watch = Watch::start();
    let begun = Instant::now();
    let mut flushes = 0;
    while begun.elapsed() < Duration::from_secs(4) {
        nft("flush ruleset");
        flushes += 1;
        thread::sleep(Duration::from_millis(5));
    }
    let built = watch.said().matches("built table").count();
    // Pauses of 25, 50, ... 400, 600, 600 ms: ten looks in 4 s, and what the first look was; with a
    // pause of a second there would be eight.
    assert!((8..=12).contains(&built), "{built} restored of {flushes}: {}", watch.said());
    watch.wait_for("the last word", || web.check().status.success());
    println!("{flushes} flushes in 4 s: {built} times restored");
}

/// How long it takes from the moment at which the kernel tells of the flush to that at which the
/// last element is there again: the median of several.
#[test]
fn the_time_to_restore() {
    for (records, each) in [(1, 1), (20, 50), (1_000, 1), (100, 50), (5_000, 1)] {
        let records = in_one_transaction(records).max(1);
        // As nice as the unit makes it, where that is allowed.
        elsewhere(|| time_to_restore(records, each, || Watch::start_under(&["nice", "-n", "-10"])));
    }
}

/// Saves so many records with so many mappings each. Gives the instance of the store, and the last element.
fn fill(records: u16, each: u16) -> (String, Place) {
    // The store is of the namespace of the process that makes it, and this is only a thread.
    let begin = ["reserve", "anything", "1"];
    assert!(tool(Command::new(Plugin::Autoport.path()).args(begin).env_clear(), "").0);
    let locked = Store::at(STATE.as_ref()).lock(&mut Silent).expect("a store");
    let instance = locked.instance().clone();
    let mut last = None;
    for number in 0..records {
        let [high, low] = number.to_be_bytes();
        let addresses = [format!("10.1.{high}.{low}/16"), format!("fd00:1::{number:x}/64")];
        let bare = record(&format!("pod{number}"), policy(), &addresses.each_ref().map(|a| &**a));
        let first = 10_000 + number * each;
        let ports = first..first + each;
        let full: Record = ports.fold(bare, |record, port| map(record, Protocol::Tcp, "*", port));
        let full = Record { boot_id: instance.boot_id.clone(), ..full };
        locked.save(&full).expect("a record");
        last = table_of(&[&full]).elements.into_keys().next_back();
    }
    (instance.id, last.expect("there is a record"))
}

/// How long the last element is missing while a tool flushes the ruleset again as soon as it is there: the longest
/// of the times in ten seconds.
pub(super) fn time_to_restore_in_a_fight(records: u16, start: impl Fn() -> Watch) {
    let (instance, place) = fill(records, 1);
    let mut nft = Nft::open(&instance).expect("netlink works");
    let watch = start();
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_secs(10) {
        crate::stage::netns::nft("flush ruleset");
        let flushed = Instant::now();
        watch.wait_for("the last element", || {
            let look = nft.look(Extent::Places(&[place])).expect("netlink works");
            look.elements.contains_key(&place)
        });
        times.push(flushed.elapsed());
    }
    times.sort_unstable();
    println!(
        "{records} mappings, flushed {} times: restored after {:.1?} (median), {:.1?} at most",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

pub(super) fn time_to_restore(records: u16, each: u16, start: impl Fn() -> Watch) {
    let (instance, place) = fill(records, each);
    let mut nft = Nft::open(&instance).expect("netlink works");
    let never = TcpListener::bind((IpAddr::from([127, 0, 0, 1]), 0)).expect("a free port");
    let (mut times, mut spent, mut memory) = (Vec::new(), Vec::new(), String::new());
    for _ in 0..5 {
        // A new one each time: the pauses of one that is kept busy are another matter.
        let watch = start();
        // Until the pause after its first look is over.
        thread::sleep(Duration::from_millis(100));
        let mut events = Events::open().expect("netlink works");
        let before = watch.processor_time();
        let flushed = thread::scope(|scope| {
            scope.spawn(|| crate::stage::netns::nft("flush ruleset"));
            let woken = events.wait(never.as_fd(), Some(PATIENCE)).expect("netlink works");
            assert_eq!(woken, Woken::Changed);
            Instant::now()
        });
        // A process that listens would take the kernel's time.
        drop(events);
        watch.wait_for("the last element", || {
            let look = nft.look(Extent::Places(&[place])).expect("netlink works");
            look.elements.contains_key(&place)
        });
        times.push(flushed.elapsed());
        spent.push(watch.processor_time().saturating_sub(before));
        // Until it has given its memory back.
        thread::sleep(Duration::from_millis(1500));
        memory = format!("{}, {} anonymous", watch.status("VmRSS"), watch.status("RssAnon"));
    }
    times.sort_unstable();
    spent.sort_unstable();
    let (median, spent) = (times[times.len() / 2], spent[spent.len() / 2]);
    println!(
        "{} mappings in {records} records: restored {median:.1?} after the flush, with {spent:.1?} \
         of processor time (medians; {times:.1?}); the watch has {memory}",
        records * each,
    );
    // The time on the clock depends on what else this machine does; this does not, and a build
    // without optimisation takes ten times as long.
    assert!(spent < Duration::from_secs(1), "{spent:?}");
}
