//! Every libc call and raw ioctl, behind safe functions.

pub mod sigbus;
