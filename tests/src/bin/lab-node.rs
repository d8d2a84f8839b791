//! A node as a process of its own, for the tests of faults; `net_tests::lab::node` is the program.

use net_tests::lab::memory::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    net_tests::lab::node::main(std::env::args().skip(1));
}
