mod ageing;
mod merging;
mod names;
mod refusals;
mod signers;
