//! What the store claims, tried on real files; see each part.

mod commit;
mod crash;
mod damage;
mod event;
mod fixture;
mod full;
