//! Commands about operators: people, and tools that act for them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::{Value, json};

use identity::{SoftKeys, svid};
use proto::identity::v1::{
    GetTrustAnchorsRequest, ListOperatorsRequest, Operator, Role as WireRole, SetOperatorRequest,
};
use proto::mesh::v1::GetStatusRequest;
use tls::keyfile;
use types::key::{KeySlot, Keys};
use types::{MeshName, Now, ServiceName};

use super::client::{Node, failure};
use super::output::{Output, moment, table};
use super::remote;

/// What an operator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Look
    View,
    /// Also act on what runs
    Operate,
    /// Also change who belongs
    Admin,
}

impl Role {
    const fn wire(self) -> WireRole {
        match self {
            Self::View => WireRole::View,
            Self::Operate => WireRole::Operate,
            Self::Admin => WireRole::Admin,
        }
    }
}

const fn name_of(role: WireRole) -> &'static str {
    match role {
        WireRole::Unspecified => "none",
        WireRole::View => "view",
        WireRole::Operate => "operate",
        WireRole::Admin => "admin",
    }
}

/// The files of an operator, in one folder.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// Authorities, for stock clients.
    anchors: PathBuf,
    /// The same for this program.
    rustls_anchors: PathBuf,
}

impl Files {
    fn of(dir: &Path, name: &ServiceName) -> Self {
        let file = |name: String| dir.join(name);
        Self {
            certificate: file(format!("{name}.crt")),
            key: file(format!("{name}.key")),
            anchors: file("ca.crt".to_owned()),
            rustls_anchors: file(remote::ANCHORS.to_owned()),
        }
    }
}

/// `operator add`: the key is made here and does not leave this machine.
pub(super) async fn add(
    node: &Node,
    name: &ServiceName,
    role: Role,
    dir: &Path,
    output: Output,
) -> anyhow::Result<()> {
    let status = node.mesh().get_status(GetStatusRequest {}).await.map_err(failure)?.into_inner();
    let anchors = node.identity().get_trust_anchors(GetTrustAnchorsRequest::default()).await;
    let anchors = anchors.map_err(failure)?.into_inner();
    let mesh: MeshName = status.mesh.parse().context("the node answered no mesh")?;

    std::fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
    let files = Files::of(dir, name);
    let p256 = write_keys(&files, &mesh, name)?;
    let request = SetOperatorRequest { name: name.to_string(), role: role.wire().into(), p256 };
    if let Err(status) = node.identity().set_operator(request).await {
        // Files that nobody believes would only mislead.
        let _ = std::fs::remove_file(&files.key);
        let _ = std::fs::remove_file(&files.certificate);
        return Err(failure(status));
    }
    // Not secret, and newer is better: other operators of this folder use it too.
    for (path, text) in [(&files.anchors, anchors.stock_pem), (&files.rustls_anchors, anchors.rustls_pem)] {
        std::fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))?;
    }

    let at = reachable(&status.api_address);
    let line = grpcurl(&files, &status.node, &at);
    let own_line =
        format!("sagemesh --api {}@{at} --identity {}", status.node, quote(&files.key.with_extension("")));
    let text = format!(
        "{name} has the role {} now. Its files:\n  {}\n  {}\n  {}\n  {}\n\nTry them; from another machine with \
         the address of this one:\n  {line} list\n  {own_line} status",
        name_of(role.wire()),
        files.certificate.display(),
        files.key.display(),
        files.anchors.display(),
        files.rustls_anchors.display(),
    );
    let value = json!({
        "name": name,
        "role": name_of(role.wire()),
        "certificate": files.certificate,
        "key": files.key,
        "ca": files.anchors,
        "ca_rustls": files.rustls_anchors,
        "grpcurl": line,
        "sagemesh": own_line,
    });
    output.print(&text, &value)
}

/// Makes the key and its certificate, where none are; answers the public key.
fn write_keys(files: &Files, mesh: &MeshName, name: &ServiceName) -> anyhow::Result<Vec<u8>> {
    let secret = tls::random::secret(KeySlot::Operator);
    let keys = SoftKeys::new([(KeySlot::Operator, &secret)])?;
    let certificate = svid::operator_certificate(&keys, mesh, name, tls::random::bytes(), Now::read())?;
    let pem = tls::pem::private_key(&secret).context("failed to make a key: try again")?;
    keyfile::write_new(&files.key, pem.as_bytes())
        .with_context(|| format!("failed to keep the key of `{name}`: name another folder with --out"))?;
    keyfile::write_new(&files.certificate, tls::pem::certificate(&certificate).as_bytes())
        .inspect_err(|_| drop(std::fs::remove_file(&files.key)))
        .with_context(|| {
            format!("failed to keep the certificate of `{name}`: name another folder with --out")
        })?;
    Ok(keys.public(KeySlot::Operator)?.as_bytes().to_vec())
}

/// Where a node that listens at `api` is reached from its own machine.
fn reachable(api: &str) -> String {
    match api.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => format!("127.0.0.1:{}", address.port()),
        _ => api.to_owned(),
    }
}

/// The line that calls this node as the operator.
fn grpcurl(files: &Files, trust_domain: &str, at: &str) -> String {
    let [anchors, certificate, key] =
        [&files.anchors, &files.certificate, &files.key].map(|path| quote(path));
    format!("grpcurl -cacert {anchors} -cert {certificate} -key {key} -authority {trust_domain} {at}")
}

/// A path as a shell reads it.
fn quote(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@,".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// `operator remove`
pub(super) async fn remove(node: &Node, name: &ServiceName, output: Output) -> anyhow::Result<()> {
    let request = SetOperatorRequest { name: name.to_string(), ..Default::default() };
    node.identity().set_operator(request).await.map_err(failure)?;
    output.print(&format!("{name} has no role any more"), &json!({ "name": name, "role": "none" }))
}

/// `operator list`
pub(super) async fn list(node: &Node, output: Output) -> anyhow::Result<()> {
    let told = node.identity().list_operators(ListOperatorsRequest {}).await.map_err(failure)?.into_inner();
    let row = |it: &Operator| {
        [
            it.name.clone(),
            name_of(it.role()).to_owned(),
            moment(it.not_after_s),
            it.key.chars().take(16).collect(),
        ]
    };
    let rows: Vec<_> = told.operators.iter().map(row).collect();
    let json = |it: &Operator| {
        json!({
            "name": it.name,
            "role": name_of(it.role()),
            "key": it.key,
            "issued_at": moment(it.issued_at_s),
            "not_after": moment(it.not_after_s),
        })
    };
    let value: Value = told.operators.iter().map(json).collect();
    let text = match rows.is_empty() {
        true => "no operators: add one with `sagemesh operator add NAME --role ROLE --out DIR`".to_owned(),
        false => table(["NAME", "ROLE", "UNTIL", "KEY"], &rows),
    };
    output.print(&text, &value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_can_be_pasted() {
        let files = Files::of(Path::new("/tmp/it's here"), &"ann".parse().expect("a name"));
        let line = grpcurl(&files, "pi.home.mesh", &reachable("[::]:7443"));
        assert!(line.contains(r"-key '/tmp/it'\''s here/ann.key'"), "{line}");
        assert!(line.ends_with("-authority pi.home.mesh 127.0.0.1:7443"), "{line}");
    }
}
