use super::*;
use wharf_messages::ContainerId;

const B: Backoff = Backoff::DEFAULT;
const NOW: Timestamp = Timestamp(1_000_000_000_000_000);
const MADE: Timestamp = Timestamp(NOW.0 - 3_600_000_000_000);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn wish(policy: &str) -> Wish {
    let policy = Policy::parse(policy).unwrap();
    Wish { running: true, policy, restarts: 0, stopped_by_user: false, log_uri: String::new() }
}

fn end(code: u32, ran_s: u64) -> End {
    End { code, at: NOW, ran: Some(Duration::from_secs(ran_s)) }
}

fn ended(code: u32) -> TaskNow {
    TaskNow::Ended(end(code, 1), MADE)
}

fn record(phase: RestartPhase, restarts: u32, due_in_ms: i64) -> RestartRecord {
    RestartRecord {
        container_id: ContainerId::new("web").unwrap(),
        phase,
        restarts,
        due_at: Timestamp(NOW.0 + due_in_ms * 1_000_000),
        since: NOW,
        reason: "it is unhealthy".to_owned(),
    }
}

fn look<'a>(wish: &'a Wish, task: TaskNow) -> Look<'a> {
    Look { wish: Some(wish), task, record: None, fresh: false, unhealthy: false, client_at: None, now: NOW }
}

fn schedule(restarts: u32, rest_ms: u64, reason: &str) -> Step {
    Step::Schedule { restarts, rest: ms(rest_ms), reason: reason.to_owned() }
}

/// What each policy says of each end: nothing, a restart, or that it was the last one.
#[test]
fn every_policy_after_every_end() {
    let again = |code: u32| schedule(1, 100, &format!("it ended with {code}"));
    let rest = || Step::Rest;
    #[rustfmt::skip]
    let table = [
        // policy            by user  fresh  code   step
        ("no",               false,   true,  1,     rest()),
        ("always",           false,   false, 0,     again(0)),
        ("always",           false,   false, 137,   again(137)),
        ("always",           true,    false, 137,   rest()),
        // Docker: one that a user stopped is started with the daemon.
        ("always",           true,    true,  137,   again(137)),
        ("unless-stopped",   false,   false, 0,     again(0)),
        ("unless-stopped",   false,   true,  255,   again(255)),
        ("unless-stopped",   true,    false, 137,   rest()),
        ("unless-stopped",   true,    true,  137,   rest()),
        ("on-failure",       false,   false, 0,     rest()),
        ("on-failure",       false,   true,  0,     rest()),
        ("on-failure",       false,   false, 3,     again(3)),
        ("on-failure",       true,    false, 137,   rest()),
        ("on-failure",       true,    true,  137,   rest()),
        ("on-failure:2",     false,   false, 3,     again(3)),
    ];
    for (policy, stopped_by_user, fresh, code, step) in table {
        let wish = Wish { stopped_by_user, ..wish(policy) };
        let decided = decide(&Look { fresh, ..look(&wish, ended(code)) }, &B);
        assert_eq!(decided, step, "{policy}, by user {stopped_by_user}, fresh {fresh}, code {code}");
    }
}

#[test]
fn rests_double_up_to_a_minute_and_begin_anew_after_a_good_run() {
    let after = |restarts, ran_s| {
        let wish = Wish { restarts, ..wish("always") };
        match decide(&look(&wish, TaskNow::Ended(end(1, ran_s), MADE)), &B) {
            Step::Schedule { restarts, rest, .. } => (restarts, rest.as_millis()),
            step => panic!("{step:?}"),
        }
    };
    let rests: Vec<_> = (0..12).map(|restarts| after(restarts, 9)).collect();
    let wanted = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000];
    assert_eq!(rests, (1..).zip(wanted).collect::<Vec<_>>());
    assert_eq!(after(u32::MAX, 9), (u32::MAX, 60_000));
    assert_eq!(after(7, 10), (1, 100), "a run of 10 s is a good one");
    // One whose beginning nobody knows is none.
    let wish = Wish { restarts: 1, ..wish("always") };
    let unknown = TaskNow::Ended(End { ran: None, ..end(1, 0) }, MADE);
    assert_eq!(decide(&look(&wish, unknown), &B), schedule(2, 200, "it ended with 1"));
}

#[test]
fn on_failure_counts_restarts_in_a_row() {
    let last = Wish { restarts: 2, ..wish("on-failure:3") };
    assert_eq!(decide(&look(&last, ended(1)), &B), schedule(3, 400, "it ended with 1"));
    let over = Wish { restarts: 3, ..last };
    let given_up = Step::GiveUp { restarts: 3, reason: "it ended with 1, after 3 restarts".to_owned() };
    assert_eq!(decide(&look(&over, ended(1)), &B), given_up);
    // It is told once.
    let told = record(RestartPhase::GivenUp, 3, 0);
    assert_eq!(decide(&Look { record: Some(&told), ..look(&over, ended(1)) }, &B), Step::Rest);
    // A good run makes the count begin anew, and so does a user who allows more.
    let good = TaskNow::Ended(end(1, 11), MADE);
    assert_eq!(decide(&look(&over, good), &B), schedule(1, 100, "it ended with 1"));
    let more = Wish { policy: Policy::OnFailure(Some(4)), ..over.clone() };
    let decided = decide(&Look { record: Some(&told), ..look(&more, ended(1)) }, &B);
    assert_eq!(decided, schedule(4, 800, "it ended with 1"));
    assert_eq!(decide(&Look { record: Some(&told), ..look(&over, TaskNow::Running) }, &B), Step::Forget);
}

#[test]
fn nothing_is_wished_of_a_container_without_a_status() {
    let always = wish("always");
    let old = record(RestartPhase::Waiting, 1, 0);
    for task in [ended(1), TaskNow::Running, TaskNow::Absent(NOW, None)] {
        assert_eq!(decide(&Look { wish: None, ..look(&always, task) }, &B), Step::Rest);
        assert_eq!(decide(&Look { wish: None, record: Some(&old), ..look(&always, task) }, &B), Step::Forget);
    }
}

#[test]
fn a_container_that_is_to_be_stopped_is() {
    let stopped = Wish { running: false, ..wish("always") };
    for (task, step) in [
        (TaskNow::Created, Step::Stop),
        (TaskNow::Running, Step::Stop),
        (TaskNow::Passing, Step::LookAgain(PASSING_REST)),
        (ended(1), Step::Rest),
        (TaskNow::Absent(NOW, None), Step::Rest),
    ] {
        assert_eq!(decide(&look(&stopped, task), &B), step, "{task:?}");
    }
    let waiting = record(RestartPhase::Waiting, 1, 0);
    assert_eq!(decide(&Look { record: Some(&waiting), ..look(&stopped, ended(1)) }, &B), Step::Forget);
}

#[test]
fn a_wish_without_a_task_leaves_clients_their_grace() {
    let always = wish("always");
    let since = |seconds: i64| TaskNow::Absent(Timestamp(NOW.0 - seconds * 1_000_000_000), None);
    assert_eq!(decide(&look(&always, since(0)), &B), Step::LookAgain(B.grace));
    assert_eq!(decide(&look(&always, since(4)), &B), Step::LookAgain(ms(6000)));
    assert_eq!(decide(&look(&always, since(10)), &B), Step::Begin { restarts: 1 });
    // A failure that nobody saw is none.
    assert_eq!(decide(&look(&wish("on-failure"), since(10)), &B), Step::Rest);
    // One that was seen counts, though a client deleted the task since.
    let heard = TaskNow::Absent(NOW, Some(end(5, 1)));
    assert_eq!(decide(&look(&wish("on-failure"), heard), &B), schedule(1, 100, "it ended with 5"));
    // A clock that was set back does not make anybody wait for longer.
    let future = TaskNow::Absent(Timestamp(NOW.0 + 3_600_000_000_000), None);
    assert_eq!(decide(&look(&always, future), &B), Step::LookAgain(B.grace));
}

#[test]
fn what_waits_is_begun_when_it_is_due_and_cancelled_by_a_user() {
    let always = wish("always");
    let at = |due_in_ms| record(RestartPhase::Waiting, 4, due_in_ms);
    let step =
        |wish: &Wish, record: &RestartRecord, task| decide(&Look { record: Some(record), ..look(wish, task) }, &B);
    assert_eq!(step(&always, &at(300), ended(1)), Step::LookAgain(ms(300)));
    assert_eq!(step(&always, &at(0), ended(1)), Step::Begin { restarts: 4 });
    assert_eq!(step(&always, &at(-1), ended(1)), Step::Begin { restarts: 4 });
    assert_eq!(step(&always, &at(90_000_000), ended(1)), Step::LookAgain(B.max), "the clock was set back");
    // Who deletes the task may have more to do.
    assert_eq!(step(&always, &at(0), TaskNow::Absent(NOW, None)), Step::LookAgain(B.grace));
    // So may who has just changed the labels.
    let client_at = Some(Timestamp(NOW.0 - 1_000_000_000));
    let due = at(0);
    let decided = decide(&Look { record: Some(&due), client_at, ..look(&always, ended(1)) }, &B);
    assert_eq!(decided, Step::LookAgain(ms(9000)));
    for started in [TaskNow::Created, TaskNow::Running] {
        assert_eq!(step(&always, &at(0), started), Step::Forget);
    }
    let by_user = Wish { stopped_by_user: true, ..always.clone() };
    assert_eq!(step(&by_user, &at(0), ended(1)), Step::Cancel("a user has stopped it"));
    assert!(matches!(step(&wish("no"), &at(0), ended(1)), Step::Cancel(_)));
}

#[test]
fn a_start_that_was_cut_short_goes_on() {
    let always = wish("always");
    let begun = record(RestartPhase::Starting, 1, 0);
    let step = |wish: &Wish, task| decide(&Look { record: Some(&begun), ..look(wish, task) }, &B);
    let old = TaskNow::Ended(end(1, 1), Timestamp(NOW.0 - 1));
    for task in [TaskNow::Absent(NOW, None), TaskNow::Created, old] {
        assert_eq!(step(&always, task), Step::Start, "{task:?}");
    }
    assert_eq!(step(&always, TaskNow::Running), Step::Forget);
    assert_eq!(step(&always, TaskNow::Passing), Step::LookAgain(PASSING_REST));
    // Started, and ended before that was written down.
    let counted = Wish { restarts: 1, ..always.clone() };
    let new = TaskNow::Ended(end(9, 0), Timestamp(NOW.0 + 1));
    assert_eq!(step(&counted, new), schedule(2, 200, "it ended with 9"));
    // A user's stop holds, however far it came.
    let by_user = Wish { stopped_by_user: true, ..always };
    assert_eq!(step(&by_user, TaskNow::Running), Step::Stop);
    assert_eq!(step(&by_user, TaskNow::Created), Step::Stop);
    assert!(matches!(step(&by_user, old), Step::Cancel(_)));
    // An attempt that failed is a failure like any other.
    assert_eq!(not_started(&wish("on-failure:1"), "no", NOW, &B), schedule(1, 100, "no"));
    let over = Wish { restarts: 1, ..wish("on-failure:1") };
    assert!(matches!(not_started(&over, "no", NOW, &B), Step::GiveUp { restarts: 1, .. }));
}

#[test]
fn an_unhealthy_task_is_ended_if_it_would_be_started_again() {
    let step = |wish: &Wish, task| decide(&Look { unhealthy: true, ..look(wish, task) }, &B);
    for policy in ["always", "unless-stopped", "on-failure:1"] {
        assert_eq!(step(&wish(policy), TaskNow::Running), Step::End, "{policy}");
    }
    let over = Wish { restarts: 1, ..wish("on-failure:1") };
    let by_user = Wish { stopped_by_user: true, ..wish("always") };
    for wish in [wish("no"), over, by_user] {
        assert_eq!(step(&wish, TaskNow::Running), Step::Rest, "{wish:?}");
    }
    let ending = record(RestartPhase::Ending, 0, 0);
    let step = |wish: &Wish, task| decide(&Look { record: Some(&ending), ..look(wish, task) }, &B);
    let always = Wish { restarts: 2, ..wish("always") };
    assert_eq!(step(&always, TaskNow::Running), Step::Kill);
    // However long it ran and whatever it ended with, it was no good run.
    assert_eq!(step(&always, TaskNow::Ended(end(0, 3600), MADE)), schedule(3, 400, "it is unhealthy"));
    let by_user = Wish { stopped_by_user: true, ..always };
    assert_eq!(step(&by_user, TaskNow::Running), Step::Forget);
    assert_eq!(step(&by_user, ended(137)), Step::Forget);
}
