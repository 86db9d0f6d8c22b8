//! Requests to Keystone, and Glimpse's login there.
//!
//! A [`Client`] logs in with the options of one group, keeps its token until it is about to expire, and logs in again if Keystone
//! rejects the token. [`Client::get`] reads from Keystone's API, at the address that the catalog names.

mod caller;
mod catalog;
mod client;
mod credentials;
mod options;
mod trust;

pub(crate) use self::{
    caller::{Caller, ReadCatalog},
    catalog::Catalog,
    client::{Client, KeystoneError},
    options::ServiceLogin,
    trust::Trust,
};
