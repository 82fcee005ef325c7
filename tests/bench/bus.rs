//! The bus: how fast events become durable, how fast they are replayed through the socket, how soon a hundred subscribers
//! have one, and what a long log costs in memory.

use super::{figure, megabytes, milliseconds};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};
use tokio_util::sync::CancellationToken;
use wharf_actors::{Wharf, config::SystemConfig, root};
use wharf_client::Client;
use wharf_messages::{
    Any, Namespace, Timestamp,
    event::{Delivery, Event, PublishEvent, Seq, Since, WatchEvents},
};
use wharf_store::{Commit, Retention};
use wharf_tests::{Daemon, daemon::Settings, process};

const REPLAYED: u64 = 1_000_000;
const SUBSCRIBERS: usize = 100;
const ANNOUNCED: u64 = 500;
/// Commits in flight, where several actors commit at a time.
const COMMITTERS: usize = 512;

fn namespace() -> Namespace {
    Namespace::new("bench").unwrap()
}

fn event() -> Event {
    Event::Published { topic: "/bench/event".to_owned(), payload: Any::new("bench.Event", vec![7; 100]) }
}

fn commit(events: u64) -> Commit {
    (0..events).fold(Commit::new(&namespace()), |commit, _| commit.event(event()))
}

/// Everything.
pub fn bus() {
    let config = format!("[events]\nmax = {}\nmax_bytes = {}\n", 4 * REPLAYED, 1_u64 << 40);
    let args = vec!["--log-level".to_owned(), "info".to_owned()];
    let mut daemon = Daemon::with(Settings { config: Some(config), args, ..Settings::default() });
    daemon.terminate();
    fill(&daemon.root(), &daemon.state());
    daemon.up();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(daemon.address()).await.unwrap().namespace(namespace());
        let pss = || megabytes(process::pss_kilobytes(daemon.pid()).unwrap());
        replay(&client, REPLAYED / 10).await;
        let short = pss();
        let took = replay(&client, REPLAYED).await;
        figure("replay of 1,000,000 events through the socket", took.as_secs_f64(), "s", "under 1.5");
        figure("daemon's memory after 100,000 replayed, PSS", short, "MB", "");
        figure("daemon's memory after 1,000,000 replayed, PSS", pss(), "MB", "the same");
        fan_out(&client).await;
    });
}

/// Fills a root's log, timing the journal.
fn fill(root: &Path, state: &Path) {
    let mut config = SystemConfig::new(root, state);
    config.retention = Retention { events_max: u64::MAX, bytes_max: u64::MAX, age_max: None };
    let serve = |wharf: Wharf, _: CancellationToken| async move {
        let each = 4000_u32;
        let begin = Instant::now();
        for _ in 0..each {
            wharf.journal.commit(commit(1)).await.unwrap();
        }
        let rate = f64::from(each) / begin.elapsed().as_secs_f64();
        figure("durable events a second, one by one", rate, "/s", "4,000");
        let (commits, begin) = (100_000, Instant::now());
        let committers = (0..COMMITTERS).map(|_| {
            let wharf = wharf.clone();
            tokio::spawn(async move {
                for _ in 0..commits / COMMITTERS {
                    wharf.journal.commit(commit(1)).await.unwrap();
                }
            })
        });
        for committer in committers.collect::<Vec<_>>() {
            committer.await.unwrap();
        }
        let rate = commits as f64 / begin.elapsed().as_secs_f64();
        figure("durable events a second, 512 commit one each", rate, "/s", "100,000");
        let begin = Instant::now();
        for _ in 0..REPLAYED / 1000 {
            wharf.journal.commit(commit(1000)).await.unwrap();
        }
        let rate = REPLAYED as f64 / begin.elapsed().as_secs_f64();
        figure("durable events a second, 1,000 in a commit", rate, "/s", "100,000");
    };
    root::run(config, serve, CancellationToken::new()).unwrap();
}

async fn replay(client: &Client, count: u64) -> Duration {
    let begin = Instant::now();
    let watch =
        WatchEvents { since: Since::Seq(Seq(0)), until: None, follow: false, filters: Vec::new(), cursor: None };
    let mut events = client.subscribe(watch).await.unwrap();
    let (mut seen, mut next) = (0, 1);
    while seen < count {
        match events.next().await.unwrap() {
            Some(Delivery::Event(record)) => {
                assert_eq!(record.seq.0, next);
                (seen, next) = (seen + 1, next + 1);
            }
            Some(Delivery::Subscribed { .. }) => {}
            other => panic!("{other:?} after {seen} events"),
        }
    }
    begin.elapsed()
}

async fn fan_out(client: &Client) {
    let delays = Arc::new(Mutex::new(Vec::new()));
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let filters = vec!["topic==\"/bench/announced\"".to_owned()];
        let watch = WatchEvents { since: Since::Now, until: None, follow: true, filters, cursor: None };
        let mut events = client.subscribe(watch).await.unwrap();
        assert!(matches!(events.next().await.unwrap(), Some(Delivery::Subscribed { .. })));
        let delays = Arc::clone(&delays);
        subscribers.push(tokio::spawn(async move {
            let mut own = Vec::new();
            while own.len() < ANNOUNCED as usize {
                if let Some(Delivery::Event(record)) = events.next().await.unwrap() {
                    own.push(Timestamp::from(SystemTime::now()).since(record.at));
                }
            }
            delays.lock().unwrap().extend(own);
        }));
    }
    for _ in 0..ANNOUNCED {
        let payload = Any::new("bench.Event", vec![7; 100]);
        client.call(PublishEvent { topic: "/bench/announced".to_owned(), payload }).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for subscriber in subscribers {
        subscriber.await.unwrap();
    }
    let mut delays = std::mem::take(&mut *delays.lock().unwrap());
    delays.sort_unstable();
    let at = |part: f64| milliseconds(delays[((delays.len() - 1) as f64 * part) as usize]);
    figure("an event to 100 subscribers, commit included, p50", at(0.5), "ms", "");
    figure("an event to 100 subscribers, commit included, p99", at(0.99), "ms", "under 5");
}
