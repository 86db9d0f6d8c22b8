//! The records of images: creating, viewing, listing, changing, sharing and deleting them.
//!
//! A service function takes the caller's context and typed input, decides access, owns the transaction, and returns domain values. Its
//! documentation states the cost in database statements; a transaction adds BEGIN and COMMIT.

pub(crate) mod actions;
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
