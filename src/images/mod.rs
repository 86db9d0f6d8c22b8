//! Services for the records of images: create, view, list, update, share and delete.
//!
//! A service function takes the caller's context and typed input, authorises the caller, owns the transaction, and returns domain
//! values. Its documentation states its cost in database statements; a transaction adds BEGIN and COMMIT.

pub(crate) mod actions;
pub(crate) mod cache;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod list;
pub(crate) mod locations;
pub(crate) mod members;
pub(crate) mod stores;
pub(crate) mod tags;
pub(crate) mod update;
pub(crate) mod view;

pub(crate) use self::{create::create, delete::delete, list::list, update::update, view::get};
