//! omd
fn main() {}
