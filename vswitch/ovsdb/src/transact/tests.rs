//! Operations by example and against a naive model.
