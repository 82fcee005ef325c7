//! Failpoints: named places in the daemon and the shim where a test makes something go wrong.
//!
//! Without the feature `on` the macros are nothing: no code, no name in the binary. The test binaries have it
//! (`make test-bins`), what is installed has not.
//!
//! ```text
//! WHARF_FAILPOINTS=RULE;RULE...    or @PATH: a file of rules, one a line, read again whenever it changes
//! WHARF_FAILPOINTS_TRACE=PATH      every point that is passed is appended, one a line
//!
//! RULE    NAME=ACTION[,skip=N][,times=N][,chance=P][,once]      NAME may have `*` for any text; the first rule that fits counts
//! ACTION  panic | error | abort | freeze | delay:MS | off
//! ```
//!
//! `skip` passes are left alone first, `times` are hit then; `chance` hits one pass out of 1/P. All of this is counted by each
//! process for itself; `once` hits one process of all that read the file, and leaves `PATH.hit` to say so. `abort` ends the process at
//! once, with nothing written and nobody told, as SIGKILL does; `freeze` stops the thread for ever. A point that cannot fail
//! takes `error` for `panic`.

#[cfg(feature = "on")]
mod rule;
#[cfg(feature = "on")]
mod switch;

#[cfg(feature = "on")]
pub use switch::{Local, hit, local};

use wharf_messages::Refusal;

/// Whether the points are there.
pub const ON: bool = cfg!(feature = "on");

/// What a point with the action `error` fails with.
#[derive(Debug)]
pub struct Failed(
    /// Which point.
    pub String,
);

impl From<Failed> for Refusal {
    fn from(Failed(name): Failed) -> Self {
        Self::internal(format!("failpoint {name}"))
    }
}

impl From<Failed> for std::io::Error {
    fn from(Failed(name): Failed) -> Self {
        Self::other(format!("failpoint {name}"))
    }
}

/// Passes a point. Its name is a literal, or a format and its arguments.
#[cfg(feature = "on")]
#[macro_export]
macro_rules! failpoint {
    ($($name:tt)+) => {
        if let Err($crate::Failed(name)) = $crate::hit(&format!($($name)+)) {
            panic!("failpoint {name}");
        }
    };
}

/// Passes a point where the function can fail: with `error` it returns its error.
#[cfg(feature = "on")]
#[macro_export]
macro_rules! try_failpoint {
    ($($name:tt)+) => {
        if let Err(failed) = $crate::hit(&format!($($name)+)) {
            return Err(failed.into());
        }
    };
}

/// Passes a point, of which nothing is left in this build.
#[cfg(not(feature = "on"))]
#[macro_export]
macro_rules! failpoint {
    ($($name:tt)+) => {};
}

/// Passes a point, of which nothing is left in this build.
#[cfg(not(feature = "on"))]
#[macro_export]
macro_rules! try_failpoint {
    ($($name:tt)+) => {};
}
