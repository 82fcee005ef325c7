//! Which rules hold: the process's, from its environment, and a thread's own, set by a test that runs in it.

use crate::{
    Failed,
    rule::{Action, Rule},
};
use std::{
    cell::RefCell,
    env, fs,
    hash::{BuildHasher, RandomState},
    io::Write,
    path::PathBuf,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::SystemTime,
};

const RULES: &str = "WHARF_FAILPOINTS";
const TRACE: &str = "WHARF_FAILPOINTS_TRACE";

/// The process's rules.
struct Switch {
    rules: Vec<Rule>,
    /// Where they come from, if it is a file, and when and how long it was.
    file: Option<(PathBuf, Option<(SystemTime, u64)>)>,
    trace: Option<fs::File>,
}

static SWITCH: OnceLock<Option<Mutex<Switch>>> = OnceLock::new();

#[derive(Default)]
struct Own {
    rules: Vec<Rule>,
    passed: Vec<String>,
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// A thread's own rules, until they are dropped.
#[derive(Debug)]
pub struct Local(());

/// Sets this thread's own rules; the points that it passes are remembered.
///
/// # Panics
/// If the text is no rule.
#[must_use]
#[allow(clippy::panic)]
pub fn local(rules: &str) -> Local {
    let rules = Rule::parse_all(rules).unwrap_or_else(|why| panic!("{why}"));
    OWN.set(Some(Own { rules, passed: Vec::new() }));
    Local(())
}

impl Local {
    /// Every pass of this thread so far, in order.
    #[must_use]
    pub fn passed(&self) -> Vec<String> {
        OWN.with_borrow(|own| own.as_ref().map(|own| own.passed.clone()).unwrap_or_default())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        OWN.set(None);
    }
}

impl Switch {
    fn from_environment() -> Option<Mutex<Self>> {
        let rules = env::var(RULES).ok();
        let trace = env::var_os(TRACE).and_then(|path| fs::File::options().create(true).append(true).open(path).ok());
        if rules.is_none() && trace.is_none() {
            return None;
        }
        let rules = rules.unwrap_or_default();
        let file = rules.strip_prefix('@').map(|path| (PathBuf::from(path), None));
        let rules = if file.is_some() { Vec::new() } else { read(&rules) };
        Some(Mutex::new(Self { rules, file, trace }))
    }

    /// Whether no process was hit yet by a rule that hits only one.
    fn is_first(&self) -> bool {
        let Some((path, _)) = &self.file else { return true };
        fs::File::create_new(path.with_added_extension("hit")).is_ok()
    }

    fn refresh(&mut self) {
        let Some((path, seen)) = &mut self.file else { return };
        let now = fs::metadata(&*path).and_then(|data| Ok((data.modified()?, data.len()))).ok();
        if *seen != now {
            self.rules = read(&fs::read_to_string(&*path).unwrap_or_default());
            *seen = now;
        }
    }
}

/// Reads rules; a test that misspells one must not pass.
#[allow(clippy::print_stderr)]
fn read(text: &str) -> Vec<Rule> {
    Rule::parse_all(text).unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::abort()
    })
}

/// A number evenly between 0 and 1.
fn dice() -> f64 {
    // The upper half of a hash that the standard library seeds anew each time.
    f64::from(u32::try_from(RandomState::new().hash_one(0) >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}

/// What happens at this pass of a point.
fn decide(name: &str) -> Action {
    let own = OWN.with_borrow_mut(|own| {
        let own = own.as_mut()?;
        own.passed.push(name.to_owned());
        own.rules.iter_mut().find(|rule| rule.fits(name)).map(|rule| rule.pass(dice()))
    });
    if let Some(action) = own {
        return action;
    }
    let Some(switch) = SWITCH.get_or_init(Switch::from_environment) else { return Action::Off };
    let mut switch: MutexGuard<'_, Switch> = switch.lock().unwrap_or_else(PoisonError::into_inner);
    switch.refresh();
    if let Some(trace) = &mut switch.trace {
        // One write, so that processes that share the file do not mix their lines.
        trace.write_all(format!("{name}\n").as_bytes()).ok();
    }
    let Some(rule) = switch.rules.iter_mut().find(|rule| rule.fits(name)) else { return Action::Off };
    match rule.pass(dice()) {
        action if action != Action::Off && rule.once && !switch.is_first() => Action::Off,
        action => action,
    }
}

/// Passes a point.
///
/// # Errors
/// If a rule says so.
///
/// # Panics
/// If a rule says so.
#[allow(clippy::panic)]
pub fn hit(name: &str) -> Result<(), Failed> {
    match decide(name) {
        Action::Off => Ok(()),
        Action::Error => Err(Failed(name.to_owned())),
        Action::Panic => panic!("failpoint {name}"),
        Action::Abort => std::process::abort(),
        Action::Delay(time) => {
            thread::sleep(time);
            Ok(())
        }
        Action::Freeze => loop {
            thread::park();
        },
    }
}
