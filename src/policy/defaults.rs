//! Glance 33's default rules, one row each, in Glance's order.

/// A default rule.
#[derive(Debug)]
pub(super) struct Default {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
    /// What was the default before Glance had roles for projects.
    pub(super) before: Option<&'static str>,
    /// Whether it is only for tokens that are for a project.
    pub(super) for_projects: bool,
    /// Why it will go, where it will.
    pub(super) removal: Option<&'static str>,
}

/// A rule for every token.
const fn anywhere(name: &'static str, text: &'static str) -> Default {
    Default { name, text, before: None, for_projects: false, removal: None }
}

/// A rule for tokens that are for a project.
const fn project(name: &'static str, text: &'static str) -> Default {
    Default { for_projects: true, ..anywhere(name, text) }
}

impl Default {
    const fn before(self, before: &'static str) -> Self {
        Self { before: Some(before), ..self }
    }

    const fn going(self, why: &'static str) -> Self {
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
const WHO_SEES_IT: &str = "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or \
    project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
const WHO_USES_IT: &str = "rule:context_is_admin or (role:member and (project_id:%(project_id)s or \
    project_id:%(member_id)s or 'community':%(visibility)s or 'public':%(visibility)s or 'shared':%(visibility)s))";
const OWNER_OR_SHARED_WITH: &str =
    "rule:context_is_admin or role:reader and (project_id:%(project_id)s or project_id:%(member_id)s)";
const SHARED_WITH: &str = "rule:context_is_admin or (role:member and project_id:%(member_id)s)";
const METADEF_DEFAULT: &str = "rule:metadef_default";
const METADEF_ADMIN: &str = "rule:metadef_admin";
const METADEF_READER: &str =
    "rule:context_is_admin or (role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))";
const MANAGE_CACHE: &str = "rule:manage_image_cache";

/// The rules.
pub(super) const RULES: &[Default] = &[
    anywhere("default", "").before(ADMIN),
    anywhere("context_is_admin", "role:admin"),
    anywhere("service_api", "role:service or role:admin"),
    project("add_image", CREATOR).before(DEFAULT),
    project("delete_image", MEMBER).before(DEFAULT),
    project("get_image", WHO_SEES_IT).before(DEFAULT),
    project("get_images", READER).before(DEFAULT),
    project("modify_image", MEMBER).before(DEFAULT),
    project("publicize_image", ADMIN),
    project("communitize_image", MEMBER).before(DEFAULT),
    project("download_image", WHO_USES_IT).before(DEFAULT),
    project("download_from_store", WHO_USES_IT),
    project("upload_image", MEMBER).before(DEFAULT),
    project("delete_image_location", ADMIN).before(DEFAULT),
    project("get_image_location", READER).before(DEFAULT),
    project("set_image_location", MEMBER).before(DEFAULT),
    project("add_image_location", SERVICE_OR_CREATOR),
    project("fetch_image_location", SERVICE),
    project("add_member", MEMBER).before(DEFAULT),
    project("delete_member", MEMBER).before(DEFAULT),
    project("get_member", OWNER_OR_SHARED_WITH).before(DEFAULT),
    project("get_members", OWNER_OR_SHARED_WITH).before(DEFAULT),
    project("modify_member", SHARED_WITH).before(DEFAULT),
    project("manage_image_cache", ADMIN),
    project("deactivate", MEMBER).before(DEFAULT),
    project("reactivate", MEMBER).before(DEFAULT),
    project("copy_image", ADMIN),
    project("list_cached_nodes", ADMIN),
    project("get_task", DEFAULT).before(DEFAULT),
    project("get_tasks", DEFAULT).before(DEFAULT),
    project("add_task", DEFAULT).before(DEFAULT),
    project("modify_task", DEFAULT).going("nothing asks for it since Xena"),
    project("tasks_api_access", ADMIN),
    anywhere("metadef_default", ""),
    anywhere("metadef_admin", ADMIN),
    project("get_metadef_namespace", METADEF_READER).before(METADEF_DEFAULT),
    project("get_metadef_namespaces", READER).before(METADEF_DEFAULT),
    project("modify_metadef_namespace", METADEF_ADMIN),
    project("add_metadef_namespace", METADEF_ADMIN),
    project("delete_metadef_namespace", METADEF_ADMIN),
    project("get_metadef_object", METADEF_READER).before(METADEF_DEFAULT),
    project("get_metadef_objects", METADEF_READER).before(METADEF_DEFAULT),
    project("modify_metadef_object", METADEF_ADMIN),
    project("add_metadef_object", METADEF_ADMIN),
    project("delete_metadef_object", METADEF_ADMIN),
    project("list_metadef_resource_types", METADEF_READER).before(METADEF_DEFAULT),
    project("get_metadef_resource_type", METADEF_READER).before(METADEF_DEFAULT),
    project("add_metadef_resource_type_association", METADEF_ADMIN),
    project("remove_metadef_resource_type_association", METADEF_ADMIN),
    project("get_metadef_property", METADEF_READER).before(METADEF_DEFAULT),
    project("get_metadef_properties", METADEF_READER).before(METADEF_DEFAULT),
    project("modify_metadef_property", METADEF_ADMIN),
    project("add_metadef_property", METADEF_ADMIN),
    project("remove_metadef_property", METADEF_ADMIN),
    project("get_metadef_tag", METADEF_READER).before(METADEF_DEFAULT),
    project("get_metadef_tags", METADEF_READER).before(METADEF_DEFAULT),
    project("modify_metadef_tag", METADEF_ADMIN),
    project("add_metadef_tag", METADEF_ADMIN),
    project("add_metadef_tags", METADEF_ADMIN),
    project("delete_metadef_tag", METADEF_ADMIN),
    project("delete_metadef_tags", METADEF_ADMIN),
    project("cache_image", ADMIN).before(MANAGE_CACHE),
    project("cache_list", ADMIN).before(MANAGE_CACHE),
    project("cache_delete", ADMIN).before(MANAGE_CACHE),
    project("cache_clean", ADMIN),
    project("cache_prune", ADMIN),
    project("stores_info_detail", "rule:context_is_admin or rule:service_api").before(ADMIN),
];

/// A default by its name.
pub(super) fn find(name: &str) -> Option<&'static Default> {
    RULES.iter().find(|rule| rule.name == name)
}

#[cfg(test)]
mod tests {
    use super::super::parse;

    #[test]
    fn every_rule_can_be_read() {
        for rule in super::RULES {
            for text in [Some(rule.text), rule.before].into_iter().flatten() {
                assert!(parse::text(text).is_ok(), "{}", rule.name);
            }
        }
    }
}
