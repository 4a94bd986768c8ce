//! The crash and fault tests of docs/reliability.md: the real server is killed, starved and lied to, and then audited.
//!
//! One file for each `rel_` or `sec_` test; what they share stands beside them: [`run`] (scale, seed, figures),
//! [`content`] (the bytes of an image to be), [`roads`] (every way in), [`work`] and [`outcome`] (every job, and what
//! must be there when it has ended), [`ledger`] and [`audit`] (what was acknowledged, and whether it is there),
//! [`history`] and [`image_model`] (whether one order explains what clients were told). All of it is black box:
//! processes, sockets and the files they leave; but for [`simulator`], which runs the state machines and the catalogue
//! with simulated time and disks.
//!
//! A binary of its own and not part of `cargo test`: its tests are hungry, run one after another, and take a scale.
//! `cargo xtask torture` runs it in full, `cargo xtask test` at one per cent.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod content;
mod history;
mod image_model;
mod ledger;
mod outcome;
mod rel_01;
mod rel_02;
mod rel_04;
mod rel_05;
mod rel_06;
mod rel_07;
mod rel_10;
mod rel_11;
mod rel_12;
mod rel_13;
mod rel_14;
mod rel_15;
mod rel_16;
mod rel_17;
mod rel_20;
mod rel_21;
mod rel_23;
mod rel_24;
mod rel_25;
mod rel_26;
mod rel_27;
mod rel_28;
mod rel_30;
mod rel_31;
mod rel_32;
mod rel_33;
mod rel_40;
mod rel_42;
mod rel_44;
mod rel_46;
mod rel_50;
mod rel_51;
mod roads;
mod run;
mod sec_37;
mod simulator;
mod strace;
mod work;
