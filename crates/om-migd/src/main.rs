//! om-migd
fn main() {}
