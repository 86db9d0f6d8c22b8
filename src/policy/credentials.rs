//! The caller's credentials, by the names that policy rules use.

use super::target::{AttributeValue, Attributes};
use crate::context::{Identity, Scope};

/// The value of a credential.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Credential<'i> {
    /// There is no credential of this name.
    Unknown,
    /// Python's `None`: the credential exists, and this caller has no value for it.
    Nothing,
    /// A string.
    Text(&'i str),
    /// A list of strings. A comparison holds if any of them matches.
    Texts(&'i [String]),
}

/// Finds a credential by name. The names are those that oslo.context passes to the policy, and `system`, which oslo.policy adds.
pub(super) fn find<'i>(identity: &'i Identity, name: &str) -> Credential<'i> {
    let service = identity.service.as_deref();
    let text = |text: &'i Option<String>| text.as_deref().map_or(Credential::Nothing, Credential::Text);
    let of_service = |get: fn(&Identity) -> &Option<String>| match service {
        Some(service) => text(get(service)),
        None => Credential::Nothing,
    };
    match name {
        "user_id" => text(&identity.user_id),
        "project_id" => text(&identity.project_id),
        "roles" => Credential::Texts(&identity.roles),
        "user_domain_id" => text(&identity.user_domain_id),
        "project_domain_id" => text(&identity.project_domain_id),
        "domain_id" => text(&identity.domain_id),
        "system_scope" | "system" if identity.scope == Scope::System => Credential::Text("all"),
        "system_scope" => Credential::Nothing,
        "is_admin_project" => Credential::Text(if identity.outside_admin_project { "False" } else { "True" }),
        "service_user_id" => of_service(|service| &service.user_id),
        "service_user_domain_id" => of_service(|service| &service.user_domain_id),
        "service_project_id" => of_service(|service| &service.project_id),
        "service_project_domain_id" => of_service(|service| &service.project_domain_id),
        "service_roles" => Credential::Texts(service.map_or(&[], |service| &service.roles)),
        _ => Credential::Unknown,
    }
}

/// The caller as a target, for which `context_is_admin` is evaluated.
impl Attributes for Identity {
    fn attribute(&self, name: &str) -> Option<AttributeValue<'_>> {
        match find(self, name) {
            Credential::Unknown | Credential::Texts(_) => None,
            Credential::Nothing => Some(AttributeValue::Nothing),
            Credential::Text(text) => Some(AttributeValue::from_text(Some(text))),
        }
    }
}
