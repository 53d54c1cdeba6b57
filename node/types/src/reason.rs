//! Why something was refused: one list for the whole mesh.
//!
//! A reason's code is the gRPC status detail (`google.rpc.ErrorInfo.reason`), the log field, the metric
//! label and what `sagemesh why` prints. Codes are never renamed: people and dashboards know them.

use std::fmt;

/// A status code of gRPC (grpc/doc/statuscodes.md) that a reason maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Status {
    /// The caller's request is wrong whatever the state.
    InvalidArgument = 3,
    /// Time ran out.
    DeadlineExceeded = 4,
    /// There is no such thing.
    NotFound = 5,
    /// It is there already, and another.
    AlreadyExists = 6,
    /// The caller is known and may not.
    PermissionDenied = 7,
    /// A bound was reached.
    ResourceExhausted = 8,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// Try again, perhaps elsewhere.
    Unavailable = 14,
    /// The caller is not known.
    Unauthenticated = 16,
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $code:literal, $status:ident, $advice:literal;)+) => {
        /// Why something was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// All reasons, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The code: upper snake case, as `google.rpc.ErrorInfo` demands.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }

            /// The gRPC status that goes with it.
            pub const fn status(self) -> Status {
                match self { $(Self::$name => Status::$status,)+ }
            }

            /// What the person who sees it can do.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)+ }
            }
        }
    };
}

reasons! {
    /// The bytes are no envelope, or one of another kind.
    EnvelopeMalformed = "ENVELOPE_MALFORMED", InvalidArgument,
        "the sender runs another version or is hostile: compare `sagemesh --version` on both sides";
    /// A signature is missing or does not verify.
    SignatureInvalid = "SIGNATURE_INVALID", Unauthenticated,
        "the record was altered or forged: fetch it again from another node";
    /// The signed statement breaks a rule of its kind.
    RecordInvalid = "RECORD_INVALID", InvalidArgument,
        "have a signer issue the record again";
    /// The statement is about another mesh.
    MeshMismatch = "MESH_MISMATCH", PermissionDenied,
        "the peer belongs to another mesh: join it to this one with `sagemesh invite` and `sagemesh join`";
    /// The root is not the one that is trusted here.
    RootMismatch = "ROOT_MISMATCH", PermissionDenied,
        "compare the root fingerprints of both sides with `sagemesh status`";
    /// A new root came without the statements that belong to it.
    RootTorn = "ROOT_TORN", FailedPrecondition,
        "whoever sent it holds statements back: fetch them from another node";
    /// No grant of the root makes this key a signer.
    SignerUnknown = "SIGNER_UNKNOWN", Unauthenticated,
        "wait until the signer's grant has arrived, or ask the root's holder whether it was made";
    /// The root cut this signer off, and the statement is none of those that stay valid.
    SignerCutOff = "SIGNER_CUT_OFF", PermissionDenied,
        "have a signer in force issue the record again";
    /// The signer signed what its grant does not cover.
    BeyondRights = "BEYOND_RIGHTS", PermissionDenied,
        "have a signer with that right sign it, or have the root extend the grant";
    /// The signer has issued more than a node keeps.
    SignerQuota = "SIGNER_QUOTA", ResourceExhausted,
        "look into what the signer signs; cut it off with `sagemesh revoke` if it is stolen";
    /// Nothing is known of the node.
    MemberUnknown = "MEMBER_UNKNOWN", Unauthenticated,
        "invite it with `sagemesh invite`, or wait until its record has arrived";
    /// The member's record has ended.
    MemberExpired = "MEMBER_EXPIRED", Unauthenticated,
        "invite the node again by its name and join it again: it keeps its keys, unless it was revoked";
    /// The member's keys were revoked.
    MemberRevoked = "MEMBER_REVOKED", PermissionDenied,
        "if the node is yours, reset it and join it with a new invitation";
    /// The name is bound to other keys.
    NameBound = "NAME_BOUND", AlreadyExists,
        "choose another name, or revoke the old machine with `sagemesh revoke NODE` and invite again";
    /// Another member already uses one of the keys or the peer id.
    KeyInUse = "KEY_IN_USE", AlreadyExists,
        "reset the joining machine, so that it makes keys of its own, and join again";
    /// No beacon of any signer has been seen for too long to trust newcomers.
    BeaconStale = "BEACON_STALE", FailedPrecondition,
        "connect this node to a part of the mesh that has a signer";
    /// The certificate chain cannot be read or lacks what an SVID has.
    SvidMalformed = "SVID_MALFORMED", Unauthenticated,
        "present an SVID of this mesh";
    /// No certificate was presented.
    SvidMissing = "SVID_MISSING", Unauthenticated,
        "call through sagemesh, or present a client certificate made by `sagemesh operator add`";
    /// The certificate's signature does not come from the authority of its trust domain.
    SvidUntrusted = "SVID_UNTRUSTED", Unauthenticated,
        "the certificate was not issued by the node it names: restart the peer's sagemesh";
    /// The certificate has ended, or has not begun; both clocks matter.
    SvidExpired = "SVID_EXPIRED", Unauthenticated,
        "compare the clocks of both machines with `date -u`, then restart sagemesh where the certificate is from";
    /// The certificate names what is not in its node's scope, or claims names that are not its own.
    SvidOutOfScope = "SVID_OUT_OF_SCOPE", PermissionDenied,
        "give the node the service with `sagemesh scope NODE +svc/NAME`";
    /// The peer is not the one that was dialled.
    PeerMismatch = "PEER_MISMATCH", Unauthenticated,
        "the address belongs to another node now: correct the seed, or wait for gossip";
    /// Who presents itself on a node link is a service or an operator.
    NotANode = "NOT_A_NODE", PermissionDenied,
        "only nodes link up at this port: services connect to 7450, operators to 7443";
    /// The connection is not post-quantum where it must be.
    PqRequired = "PQ_REQUIRED", FailedPrecondition,
        "use a peer that offers X25519MLKEM768 and ML-DSA-65, or set pq = \"prefer\"";
    /// The application protocol is missing, unknown, or offered together with `sagemesh-join/1`.
    AlpnRefused = "ALPN_REFUSED", InvalidArgument,
        "offer exactly one of the protocols of that port, such as `h2`";
    /// The machine's clock is too far from the other's.
    ClockSkew = "CLOCK_SKEW", FailedPrecondition,
        "set this machine's clock, for example with NTP, and try again";
    /// The text is no invitation.
    TokenMalformed = "TOKEN_MALFORMED", InvalidArgument,
        "copy the whole line that `sagemesh invite` printed";
    /// The invitation has ended.
    TokenExpired = "TOKEN_EXPIRED", PermissionDenied,
        "make a new one with `sagemesh invite`";
    /// The inviter does not know the invitation, or its secret was not proven.
    TokenUnknown = "TOKEN_UNKNOWN", PermissionDenied,
        "make a new one with `sagemesh invite`";
    /// Another key has redeemed the invitation.
    TokenUsed = "TOKEN_USED", PermissionDenied,
        "make an invitation of its own for each node with `sagemesh invite`";
    /// The joiner does not hold a key that it names.
    PossessionUnproven = "POSSESSION_UNPROVEN", PermissionDenied,
        "join with the machine that holds the keys, or reset it and make new ones";
    /// This node may not sign what was asked.
    NotASigner = "NOT_A_SIGNER", FailedPrecondition,
        "run the command on a signer: `sagemesh status` names them";
    /// An operator is not known.
    OperatorUnknown = "OPERATOR_UNKNOWN", Unauthenticated,
        "register the operator with `sagemesh operator add`";
    /// A message between mesh peers cannot be read, or says more than one may.
    PacketMalformed = "PACKET_MALFORMED", InvalidArgument,
        "the peer runs another version or is hostile: compare `sagemesh --version` on both sides";
    /// A node's record is older than the one that is held, or was never signed.
    StateStale = "STATE_STALE", FailedPrecondition,
        "nothing if it is rare; a peer that keeps replaying old records is hostile: `sagemesh revoke` it";
    /// An entry or a whole record of a node is too large, or its key has not the form `room/key`.
    StateTooLarge = "STATE_TOO_LARGE", ResourceExhausted,
        "publish less in this node's record, or under fewer and shorter keys";
    /// The mesh has as many members as a node can follow.
    MeshFull = "MESH_FULL", ResourceExhausted,
        "revoke members that are gone with `sagemesh revoke`, or split the mesh";
    /// A peer asks more often than it may.
    RateLimited = "RATE_LIMITED", ResourceExhausted,
        "nothing if it is rare; a peer that keeps asking is hostile or broken: restart or revoke it";
    /// The process that calls is mapped to no service.
    CallerUnmapped = "CALLER_UNMAPPED", Unauthenticated,
        "declare a service whose selectors match the process; the message names one that would";
    /// The socket that calls was closing, or who owns it could not be told.
    CallerGone = "CALLER_GONE", Unauthenticated,
        "call again, and keep the connection open until the answer has come";
    /// The caller is in another network namespace, where sockets cannot be attributed.
    CallerElsewhere = "CALLER_ELSEWHERE", Unauthenticated,
        "connect to the node's Unix socket instead, which works from any namespace";
    /// The caller's role, or its being no operator, does not allow the call.
    RoleRequired = "ROLE_REQUIRED", PermissionDenied,
        "have an admin give the role with `sagemesh operator add NAME --role ROLE`";
    /// The serving node's policy does not allow the caller.
    PolicyDenied = "POLICY_DENIED", PermissionDenied,
        "add the caller to `allow` of the service in the serving node's configuration, and reload it";
    /// No node offers the service.
    ServiceUnknown = "SERVICE_UNKNOWN", NotFound,
        "check the name with `sagemesh services`; declare the service on the node where it runs";
    /// The service is offered, and no endpoint of it can take calls now.
    NoEndpoint = "NO_ENDPOINT", Unavailable,
        "`sagemesh why SERVICE` says which layer fails on each node";
    /// The service's health check fails.
    ServiceUnhealthy = "SERVICE_UNHEALTHY", Unavailable,
        "look at the service itself: it listens, and its health check fails";
    /// The service could not be connected to from its own node; nothing was sent.
    ServiceUnreachable = "SERVICE_UNREACHABLE", Unavailable,
        "start the service on its node, or correct the address that it is declared with";
    /// The port of a service belongs to a process that its selectors do not match.
    ListenerForeign = "LISTENER_FOREIGN", FailedPrecondition,
        "stop the process that holds the port, or correct the service's selectors";
    /// The endpoint could not be connected to; nothing was sent.
    EndpointUnreachable = "ENDPOINT_UNREACHABLE", Unavailable,
        "check that the serving node runs and that its inbound port can be reached";
    /// The connection broke after the request had been sent, so that it may have been carried out.
    CallLost = "CALL_LOST", Unavailable,
        "repeat the call if it may be carried out twice";
    /// The call's deadline passed.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded,
        "give the call more time, or look for the slow endpoint with `sagemesh why SERVICE`";
    /// What calls is not HTTP/2 as gRPC speaks it, or breaks its rules.
    RequestMalformed = "REQUEST_MALFORMED", InvalidArgument,
        "call with a gRPC client; the message names the rule";
    /// A bound of this node was reached.
    Overloaded = "OVERLOADED", ResourceExhausted,
        "call less often, or raise the bound that the message names";
    /// The node is shutting down, or not ready yet.
    NotServing = "NOT_SERVING", Unavailable,
        "call again; if it lasts, look at `sagemesh status` on that node";
    /// Another process or configuration holds the name of the service on this node.
    ServiceTaken = "SERVICE_TAKEN", AlreadyExists,
        "choose another name, or remove the other with `sagemesh service remove NAME`";
    /// There is no such registration, or its lease has ended.
    LeaseUnknown = "LEASE_UNKNOWN", NotFound,
        "register the service again";
    /// The configuration is refused; the one in effect stays.
    ConfigInvalid = "CONFIG_INVALID", InvalidArgument,
        "correct the file where the message says and reload";
    /// An argument of a call or a command has the wrong form.
    ArgumentInvalid = "ARGUMENT_INVALID", InvalidArgument,
        "correct the argument that the message names";
}

impl Reason {
    /// The reason with that code.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }

    /// A refusal for this reason; `detail` says what was seen. Control characters are replaced: what was seen
    /// may be hostile, and a detail is shown on terminals.
    pub fn because(self, detail: impl Into<String>) -> Refusal {
        let mut detail = detail.into();
        if detail.contains(char::is_control) {
            detail = detail.replace(char::is_control, "\u{fffd}");
        }
        Refusal { reason: self, detail }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}

/// A refusal: the reason, what was seen, and by way of the reason what to do. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({reason}): {}", reason.advice())]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// What was seen, in lower case and without a full stop.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_fit_error_info() {
        let mut codes: Vec<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        for code in &codes {
            let is_upper_snake =
                code.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            assert!(is_upper_snake && code.len() <= 63, "{code}");
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Reason::ALL.len());
    }

    #[test]
    fn a_hostile_name_in_a_detail_cannot_steer_the_terminal() {
        let seen = "\u{1b}[2Jpi\n".parse::<crate::NodeName>().expect_err("no name");
        let refusal = Reason::RecordInvalid.because(seen.to_string());
        assert!(refusal.detail.starts_with("`\u{fffd}[2Jpi\u{fffd}` is not"), "{refusal}");
    }

    #[test]
    fn a_refusal_says_what_was_seen_and_what_to_do() {
        let refusal = Reason::TokenExpired.because("the invitation for `pi` ended 3 min ago");
        assert_eq!(
            refusal.to_string(),
            "the invitation for `pi` ended 3 min ago (TOKEN_EXPIRED): make a new one with `sagemesh invite`"
        );
    }
}
