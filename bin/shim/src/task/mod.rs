//! Containers and their processes, as this process knows them.

pub mod container;
pub mod machine;
pub mod process;
pub mod spec;
