//! What stands behind the actors in their tests: the ports' other side, in memory, obeying the test.

mod shims;

pub(crate) use shims::{ENDED, FakeShims};
