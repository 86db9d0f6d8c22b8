//! The vocabulary: an image, its status, locations, members and tags, as typed values that every layer above uses.
//!
//! Nothing here knows the database or HTTP. A type that can be wrong is made by its `parse`; values that are read from the database are
//! taken as they are.

mod image;
mod listing;
mod location;
mod member;
mod status;
mod storable;
mod tag;
mod text_enum;

pub(crate) use self::{
    image::{DataFacts, Image, ImageId, RequestedId, Visibility},
    listing::{Comparison, Direction, ImageFilter, SortKey, Term, VisibilityFilter},
    location::{Location, LocationStatus, LocationUrl, UNWRITTEN},
    member::{Member, MemberId, MemberStatus},
    status::{Status, check_described, may_become},
    storable::check_storable,
    tag::Tag,
};
