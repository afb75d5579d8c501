//! The switch: bridges, slow path, workers, configuration and management; `vswitchd` is its binary.
//!
//! `docs/ARCHITECTURE.md` has the picture.

pub mod bridge;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod management;
pub mod slowpath;
pub mod switch;
pub mod translate;
