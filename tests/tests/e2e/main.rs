//! End-to-end scenarios: real guests, stock peers and network namespaces around a running `vswitchd`.
//!
//! One file per topic; each test opens the [`tests::lab::Lab`], which also makes them take turns.

mod lab_itself;
