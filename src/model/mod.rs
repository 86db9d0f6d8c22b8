//! The domain model: images, their status, locations, members and tags, and metadata definitions, as typed values that every layer above uses.
//!
//! Nothing here depends on the database layer or on HTTP. A type that validates its value is created by its `parse`. Values from
//! the database are trusted.

mod image;
mod listing;
mod location;
mod member;
pub(crate) mod metadefs;
mod reserved;
mod status;
mod storable;
mod tag;
mod task;
mod text_enum;

pub(crate) use self::{
    image::{DataFacts, Image, ImageId, RequestedId, Visibility, check_described},
    listing::{Comparison, Direction, ImageFilter, SortKey, Term, VisibilityFilter},
    location::{Location, LocationStatus, LocationUrl, UNWRITTEN},
    member::{Member, MemberId, MemberStatus},
    reserved::{FAILED_IMPORT, HASH_HOST, IMPORT_TASK, IMPORTING_TO, STAGE_HOST},
    status::{Status, may_become},
    storable::{check_no_nul, check_storable},
    tag::Tag,
    task::{Task, TaskKey, TaskStatus},
};
