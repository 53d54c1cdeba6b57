//! Nothing: the tests of this crate stand in its folders. Cargo wants a target that is always there.
