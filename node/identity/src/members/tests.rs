//! The member map told as stories, and as histories that nobody wrote.

mod ageing;
mod merging;
mod names;
mod refusals;
mod signers;
