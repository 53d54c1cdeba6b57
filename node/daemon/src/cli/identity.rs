//! Commands about who belongs to the mesh.

use std::str::FromStr;
use std::time::Duration;

use serde_json::{Value, json};

use proto::identity::v1::{
    CreateInvitationRequest, ListMembersRequest, Member, RevokeMemberRequest, UpdateScopeRequest,
};
use types::NodeName;

use super::client::{Node, failure};
use super::output::{Output, moment, table};

/// A time to live as people write it: a number and its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ttl(pub(crate) Duration);

impl FromStr for Ttl {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no time: write a number and s, m, h or d, such as 15m");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let secs = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
        number.checked_mul(secs).map(|secs| Self(Duration::from_secs(secs))).ok_or_else(wrong)
    }
}

/// One change of a scope: `+svc/NAME` or `-svc/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Add(String),
    Remove(String),
}

impl FromStr for Change {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let item = |item: &str| match identity::Scope::read([item]) {
            Ok(_) => Ok(item.to_owned()),
            Err(err) => Err(err.to_string()),
        };
        match (text.strip_prefix('+'), text.strip_prefix('-')) {
            (Some(add), _) => item(add).map(Self::Add),
            (_, Some(remove)) if remove.starts_with("svc/") => item(remove).map(Self::Remove),
            _ => Err("write +svc/NAME or -svc/NAME; options stand before the node".to_owned()),
        }
    }
}

/// `invite`: the token alone, so that it can be piped.
pub(super) async fn invite(
    node: &Node,
    name: &NodeName,
    scope: &[String],
    ttl: Option<Ttl>,
    output: Output,
) -> anyhow::Result<()> {
    let request = CreateInvitationRequest {
        node: name.to_string(),
        scope: scope.to_vec(),
        ttl_s: ttl.map_or(0, |ttl| ttl.0.as_secs()),
    };
    let token = node.identity().create_invitation(request).await.map_err(failure)?.into_inner().token;
    output.print(&token, &json!({ "token": token }))
}

/// `scope`
pub(super) async fn scope(
    node: &Node,
    name: &NodeName,
    changes: &[Change],
    output: Output,
) -> anyhow::Result<()> {
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            Change::Add(item) => add.push(item.clone()),
            Change::Remove(item) => remove.push(item.clone()),
        }
    }
    let request = UpdateScopeRequest { node: name.to_string(), add, remove };
    let scope = node.identity().update_scope(request).await.map_err(failure)?.into_inner().scope;
    let text = if scope.is_empty() { "none".to_owned() } else { scope.join(",") };
    output.print(&format!("{name} may speak for {text}"), &json!({ "node": name, "scope": scope }))
}

/// `revoke`
pub(super) async fn revoke(
    node: &Node,
    name: &NodeName,
    note: Option<&str>,
    output: Output,
) -> anyhow::Result<()> {
    let note = note.unwrap_or_default().to_owned();
    let request = RevokeMemberRequest { node: name.to_string(), note };
    node.identity().revoke_member(request).await.map_err(failure)?;
    let text = format!("{name} is revoked for ever; the name is free for a new machine");
    output.print(&text, &json!({ "revoked": name }))
}

/// `members`
pub(super) async fn members(node: &Node, output: Output) -> anyhow::Result<()> {
    let members =
        node.identity().list_members(ListMembersRequest {}).await.map_err(failure)?.into_inner().members;
    let row = |member: &Member| {
        let role = if member.signer { "signer" } else { "" };
        [member.node.clone(), role.to_owned(), moment(member.not_after_s), member.scope.join(",")]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    let json = |member: &Member| {
        json!({
            "node": member.node,
            "trust_domain": member.trust_domain,
            "peer": member.peer,
            "scope": member.scope,
            "bound_at": moment(member.bound_at_s),
            "issued_at": moment(member.issued_at_s),
            "not_after": moment(member.not_after_s),
            "signer": member.signer,
        })
    };
    let value: Value = members.iter().map(json).collect();
    output.print(&table(["NODE", "RIGHTS", "UNTIL", "SCOPE"], &rows), &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_has_a_unit() {
        #[track_caller]
        fn check(text: &str, expected: Option<u64>) {
            assert_eq!(text.parse::<Ttl>().ok().map(|ttl| ttl.0.as_secs()), expected, "{text}");
        }
        check("15m", Some(900));
        check("90s", Some(90));
        check("2h", Some(7200));
        check("7d", Some(604_800));
        for wrong in ["", "15", "m", "-1m", "1.5h", "15é", "99999999999999999999d", "18446744073709551615d"]
        {
            check(wrong, None);
        }
    }

    #[test]
    fn a_change_of_scope_has_a_sign() {
        let add = Change::Add("svc/api".to_owned());
        assert_eq!("+svc/api".parse(), Ok(add));
        assert_eq!("-svc/*".parse(), Ok(Change::Remove("svc/*".to_owned())));
        for wrong in ["svc/api", "+api", "-o", "--json", ""] {
            assert!(wrong.parse::<Change>().is_err(), "{wrong}");
        }
    }
}
