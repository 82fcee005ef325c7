//! Ports to the world and what stands behind them: only code below this module touches kernel, network and processes.

pub mod registry;
pub mod shim;
