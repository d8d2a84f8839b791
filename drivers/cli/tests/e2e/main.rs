//! The program from outside: processes, exit codes, files, JSON.

mod bus;
mod common;
mod program;
mod replay;
mod transfer;
