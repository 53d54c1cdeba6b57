mod merging;
mod names;
mod signers;
