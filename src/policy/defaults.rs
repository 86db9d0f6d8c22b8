//! The default rules of Glance 33, one row per rule, in Glance's order.

/// The names of the rules that Glimpse evaluates.
pub(crate) mod rule {
    pub(crate) const ADD_IMAGE: &str = "add_image";
    pub(crate) const ADD_IMAGE_LOCATION: &str = "add_image_location";
    pub(crate) const ADD_MEMBER: &str = "add_member";
    pub(crate) const ADD_METADEF_NAMESPACE: &str = "add_metadef_namespace";
    pub(crate) const ADD_METADEF_OBJECT: &str = "add_metadef_object";
    pub(crate) const ADD_METADEF_PROPERTY: &str = "add_metadef_property";
    pub(crate) const ADD_METADEF_RESOURCE_TYPE_ASSOCIATION: &str = "add_metadef_resource_type_association";
    pub(crate) const ADD_METADEF_TAG: &str = "add_metadef_tag";
    pub(crate) const ADD_METADEF_TAGS: &str = "add_metadef_tags";
    pub(crate) const CACHE_CLEAN: &str = "cache_clean";
    pub(crate) const CACHE_DELETE: &str = "cache_delete";
    pub(crate) const CACHE_IMAGE: &str = "cache_image";
    pub(crate) const CACHE_LIST: &str = "cache_list";
    pub(crate) const CACHE_PRUNE: &str = "cache_prune";
    pub(crate) const COMMUNITIZE_IMAGE: &str = "communitize_image";
    pub(crate) const COPY_IMAGE: &str = "copy_image";
    pub(crate) const DEACTIVATE: &str = "deactivate";
    pub(crate) const DELETE_IMAGE: &str = "delete_image";
    pub(crate) const DELETE_IMAGE_LOCATION: &str = "delete_image_location";
    pub(crate) const DELETE_MEMBER: &str = "delete_member";
    pub(crate) const DELETE_METADEF_NAMESPACE: &str = "delete_metadef_namespace";
    pub(crate) const DELETE_METADEF_OBJECT: &str = "delete_metadef_object";
    pub(crate) const DELETE_METADEF_TAG: &str = "delete_metadef_tag";
    pub(crate) const DELETE_METADEF_TAGS: &str = "delete_metadef_tags";
    pub(crate) const DOWNLOAD_FROM_STORE: &str = "download_from_store";
    pub(crate) const DOWNLOAD_IMAGE: &str = "download_image";
    pub(crate) const FETCH_IMAGE_LOCATION: &str = "fetch_image_location";
    pub(crate) const GET_IMAGE: &str = "get_image";
    pub(crate) const GET_IMAGES: &str = "get_images";
    pub(crate) const GET_IMAGE_LOCATION: &str = "get_image_location";
    pub(crate) const GET_MEMBER: &str = "get_member";
    pub(crate) const GET_MEMBERS: &str = "get_members";
    pub(crate) const GET_METADEF_NAMESPACE: &str = "get_metadef_namespace";
    pub(crate) const GET_METADEF_NAMESPACES: &str = "get_metadef_namespaces";
    pub(crate) const GET_METADEF_OBJECT: &str = "get_metadef_object";
    pub(crate) const GET_METADEF_OBJECTS: &str = "get_metadef_objects";
    pub(crate) const GET_METADEF_PROPERTIES: &str = "get_metadef_properties";
    pub(crate) const GET_METADEF_PROPERTY: &str = "get_metadef_property";
    pub(crate) const GET_METADEF_RESOURCE_TYPE: &str = "get_metadef_resource_type";
    pub(crate) const GET_METADEF_TAG: &str = "get_metadef_tag";
    pub(crate) const GET_METADEF_TAGS: &str = "get_metadef_tags";
    pub(crate) const LIST_CACHED_NODES: &str = "list_cached_nodes";
    pub(crate) const LIST_METADEF_RESOURCE_TYPES: &str = "list_metadef_resource_types";
    pub(crate) const MANAGE_IMAGE_CACHE: &str = "manage_image_cache";
    pub(crate) const MODIFY_IMAGE: &str = "modify_image";
    pub(crate) const MODIFY_MEMBER: &str = "modify_member";
    pub(crate) const MODIFY_METADEF_NAMESPACE: &str = "modify_metadef_namespace";
    pub(crate) const MODIFY_METADEF_OBJECT: &str = "modify_metadef_object";
    pub(crate) const MODIFY_METADEF_PROPERTY: &str = "modify_metadef_property";
    pub(crate) const MODIFY_METADEF_TAG: &str = "modify_metadef_tag";
    pub(crate) const PUBLICIZE_IMAGE: &str = "publicize_image";
    pub(crate) const REACTIVATE: &str = "reactivate";
    pub(crate) const REMOVE_METADEF_PROPERTY: &str = "remove_metadef_property";
    pub(crate) const REMOVE_METADEF_RESOURCE_TYPE_ASSOCIATION: &str = "remove_metadef_resource_type_association";
    pub(crate) const SET_IMAGE_LOCATION: &str = "set_image_location";
    pub(crate) const STORES_INFO_DETAIL: &str = "stores_info_detail";
    pub(crate) const TASKS_API_ACCESS: &str = "tasks_api_access";
    pub(crate) const UPLOAD_IMAGE: &str = "upload_image";
}

/// A default rule.
#[derive(Debug)]
pub(super) struct Default {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    /// The deprecated default, from before Glance had project personas. It also allows an action unless
    /// `[oslo_policy] enforce_new_defaults` is set.
    pub(super) before: Option<&'static str>,
    /// Whether the rule denies tokens that are not scoped to a project.
    pub(super) for_projects: bool,
    /// Why the rule will be removed, if it is deprecated.
    pub(super) removal: Option<&'static str>,
}

/// A rule for tokens of any scope.
const fn anywhere(name: &'static str, text: &'static str) -> Default {
    Default { name, text, before: None, for_projects: false, removal: None }
}

/// A rule for tokens that are scoped to a project.
const fn project(name: &'static str, text: &'static str) -> Default {
    Default { for_projects: true, ..anywhere(name, text) }
}

impl Default {
    const fn before(self, before: &'static str) -> Self {
        Self { before: Some(before), ..self }
    }

    const fn deprecated(self, why: &'static str) -> Self {
        Self { removal: Some(why), ..self }
    }
}

const ADMIN: &str = "rule:context_is_admin";
const SERVICE: &str = "rule:service_api";
const DEFAULT: &str = "rule:default";
const MEMBER: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s)";
const READER: &str = "rule:context_is_admin or (role:reader and project_id:%(project_id)s)";
const CREATOR: &str = "rule:context_is_admin or (role:member and project_id:%(project_id)s and project_id:%(owner)s)";
const SERVICE_OR_CREATOR: &str =
    "rule:service_api or (role:member and project_id:%(project_id)s and project_id:%(owner)s)";
const VISIBLE_TO: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or \
    project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
const USABLE_BY: &str = "rule:context_is_admin or (role:member and (project_id:%(project_id)s or \
    project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
const OWNER_OR_SHARED_WITH: &str =
    "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)";
const SHARED_WITH: &str = "rule:context_is_admin or (role:member and project_id:%(member_id)s)";
const METADEF_DEFAULT: &str = "rule:metadef_default";
const METADEF_ADMIN: &str = "rule:metadef_admin";
const METADEF_READER: &str =
    "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))";
const MANAGE_CACHE: &str = "rule:manage_image_cache";

/// The default rules.
pub(super) const RULES: &[Default] = &[
    anywhere("default", "").before(ADMIN),
    anywhere("context_is_admin", "role:admin"),
    anywhere("service_api", "role:service or role:admin"),
    project(rule::ADD_IMAGE, CREATOR).before(DEFAULT),
    project(rule::DELETE_IMAGE, MEMBER).before(DEFAULT),
    project(rule::GET_IMAGE, VISIBLE_TO).before(DEFAULT),
    project(rule::GET_IMAGES, READER).before(DEFAULT),
    project(rule::MODIFY_IMAGE, MEMBER).before(DEFAULT),
    project(rule::PUBLICIZE_IMAGE, ADMIN),
    project(rule::COMMUNITIZE_IMAGE, MEMBER).before(DEFAULT),
    project(rule::DOWNLOAD_IMAGE, USABLE_BY).before(DEFAULT),
    project(rule::DOWNLOAD_FROM_STORE, USABLE_BY),
    project(rule::UPLOAD_IMAGE, MEMBER).before(DEFAULT),
    project(rule::DELETE_IMAGE_LOCATION, ADMIN).before(DEFAULT),
    project(rule::GET_IMAGE_LOCATION, READER).before(DEFAULT),
    project(rule::SET_IMAGE_LOCATION, MEMBER).before(DEFAULT),
    project(rule::ADD_IMAGE_LOCATION, SERVICE_OR_CREATOR),
    project(rule::FETCH_IMAGE_LOCATION, SERVICE),
    project(rule::ADD_MEMBER, MEMBER).before(DEFAULT),
    project(rule::DELETE_MEMBER, MEMBER).before(DEFAULT),
    project(rule::GET_MEMBER, OWNER_OR_SHARED_WITH).before(DEFAULT),
    project(rule::GET_MEMBERS, OWNER_OR_SHARED_WITH).before(DEFAULT),
    project(rule::MODIFY_MEMBER, SHARED_WITH).before(DEFAULT),
    project(rule::MANAGE_IMAGE_CACHE, ADMIN),
    project(rule::DEACTIVATE, MEMBER).before(DEFAULT),
    project(rule::REACTIVATE, MEMBER).before(DEFAULT),
    project(rule::COPY_IMAGE, ADMIN),
    project(rule::LIST_CACHED_NODES, ADMIN),
    project("get_task", DEFAULT).before(DEFAULT),
    project("get_tasks", DEFAULT).before(DEFAULT),
    project("add_task", DEFAULT).before(DEFAULT),
    project("modify_task", DEFAULT).deprecated("Glance has not evaluated it since Xena"),
    project(rule::TASKS_API_ACCESS, ADMIN),
    anywhere("metadef_default", ""),
    anywhere("metadef_admin", ADMIN),
    project(rule::GET_METADEF_NAMESPACE, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::GET_METADEF_NAMESPACES, READER).before(METADEF_DEFAULT),
    project(rule::MODIFY_METADEF_NAMESPACE, METADEF_ADMIN),
    project(rule::ADD_METADEF_NAMESPACE, METADEF_ADMIN),
    project(rule::DELETE_METADEF_NAMESPACE, METADEF_ADMIN),
    project(rule::GET_METADEF_OBJECT, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::GET_METADEF_OBJECTS, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::MODIFY_METADEF_OBJECT, METADEF_ADMIN),
    project(rule::ADD_METADEF_OBJECT, METADEF_ADMIN),
    project(rule::DELETE_METADEF_OBJECT, METADEF_ADMIN),
    project(rule::LIST_METADEF_RESOURCE_TYPES, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::GET_METADEF_RESOURCE_TYPE, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::ADD_METADEF_RESOURCE_TYPE_ASSOCIATION, METADEF_ADMIN),
    project(rule::REMOVE_METADEF_RESOURCE_TYPE_ASSOCIATION, METADEF_ADMIN),
    project(rule::GET_METADEF_PROPERTY, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::GET_METADEF_PROPERTIES, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::MODIFY_METADEF_PROPERTY, METADEF_ADMIN),
    project(rule::ADD_METADEF_PROPERTY, METADEF_ADMIN),
    project(rule::REMOVE_METADEF_PROPERTY, METADEF_ADMIN),
    project(rule::GET_METADEF_TAG, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::GET_METADEF_TAGS, METADEF_READER).before(METADEF_DEFAULT),
    project(rule::MODIFY_METADEF_TAG, METADEF_ADMIN),
    project(rule::ADD_METADEF_TAG, METADEF_ADMIN),
    project(rule::ADD_METADEF_TAGS, METADEF_ADMIN),
    project(rule::DELETE_METADEF_TAG, METADEF_ADMIN),
    project(rule::DELETE_METADEF_TAGS, METADEF_ADMIN),
    project(rule::CACHE_IMAGE, ADMIN).before(MANAGE_CACHE),
    project(rule::CACHE_LIST, ADMIN).before(MANAGE_CACHE),
    project(rule::CACHE_DELETE, ADMIN).before(MANAGE_CACHE),
    project(rule::CACHE_CLEAN, ADMIN),
    project(rule::CACHE_PRUNE, ADMIN),
    project(rule::STORES_INFO_DETAIL, "rule:context_is_admin or rule:service_api").before(ADMIN),
];

/// Finds a default rule by name.
pub(super) fn find(name: &str) -> Option<&'static Default> {
    RULES.iter().find(|rule| rule.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn every_default_rule_can_be_parsed() {
        for rule in super::RULES {
            for text in [Some(rule.text), rule.before].into_iter().flatten() {
                assert!(parse::parse_rule(text).is_ok(), "{}", rule.name);
            }
        }
    }
}
