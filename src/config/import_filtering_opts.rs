//! `[import_filtering_opts]`: the servers that a URL from a user is allowed to name.

use super::{
    group::group,
    value::{BoundedList, HostAddress, Port, word_list},
};

group! {
    /// `[import_filtering_opts]`
    pub(crate) struct ImportFilteringOpts in "import_filtering_opts" {
        /// The schemes that are allowed. If empty, `disallowed_schemes` applies.
        allowed_schemes: BoundedList<String> = BoundedList(word_list("http https")),
        /// The schemes that are refused, if `allowed_schemes` is empty.
        disallowed_schemes: BoundedList<String> = BoundedList(Vec::new()),
        /// The hosts that are allowed; they can include this machine. If empty, `disallowed_hosts` applies.
        allowed_hosts: BoundedList<HostAddress> = BoundedList(Vec::new()),
        /// The hosts that are refused, if `allowed_hosts` is empty.
        disallowed_hosts: BoundedList<HostAddress> = BoundedList(Vec::new()),
        /// The ports that are allowed. If empty, `disallowed_ports` applies.
        allowed_ports: BoundedList<Port> = BoundedList(vec![Port(80), Port(443)]),
        /// The ports that are refused, if `allowed_ports` is empty.
        disallowed_ports: BoundedList<Port> = BoundedList(Vec::new()),
    }
}
