//! One task: the machine that says what is legal, and the actor that does it.

pub mod machine;
