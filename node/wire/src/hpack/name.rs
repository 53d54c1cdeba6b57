//! Names of fields that the relay knows, so that it compares bytes once.

/// How a field is written, which follows from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The same on most calls of a connection: kept in the dynamic table, and in cached blocks.
    Constant,
    /// Another value on each call. Its name may be kept, its value is written out.
    PerCall,
    /// A secret: never indexed, whatever it came as (RFC 7541, section 7.1.3).
    Secret,
    /// Of one connection, which a message in HTTP/2 must not have (RFC 9113, section 8.2.2).
    OfConnection,
}

macro_rules! names {
    ($($name:ident, $text:literal, $class:ident, $static_idx:literal;)*) => {
        /// The name of a field, if it is one that is known.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Name {
            /// Any other.
            Unknown,
            $(
                #[doc = concat!("`", $text, "`")]
                $name,
            )*
        }

        /// How many names there are, the unknown one among them.
        pub(crate) const NAMES: usize = 1 + [$($static_idx),*].len();

        impl Name {
            const ALL: [Self; NAMES] = [Self::Unknown, $(Self::$name),*];

            /// How it is written; empty for [`Name::Unknown`].
            pub const fn text(self) -> &'static str {
                match self {
                    Self::Unknown => "",
                    $(Self::$name => $text,)*
                }
            }

            pub(crate) const fn class(self) -> Class {
                match self {
                    Self::Unknown => Class::PerCall,
                    $(Self::$name => Class::$class,)*
                }
            }

            /// The first entry of the static table that has this name, 0 if none has.
            pub(crate) const fn static_idx(self) -> u8 {
                match self {
                    Self::Unknown => 0,
                    $(Self::$name => $static_idx,)*
                }
            }
        }
    };
}

names! {
    Authority, ":authority", Constant, 1;
    Method, ":method", Constant, 2;
    Path, ":path", Constant, 4;
    Scheme, ":scheme", Constant, 6;
    Status, ":status", Constant, 8;
    Protocol, ":protocol", Constant, 0;
    Accept, "accept", Constant, 19;
    AcceptEncoding, "accept-encoding", Constant, 16;
    ContentType, "content-type", Constant, 31;
    GrpcAcceptEncoding, "grpc-accept-encoding", Constant, 0;
    GrpcEncoding, "grpc-encoding", Constant, 0;
    GrpcStatus, "grpc-status", Constant, 0;
    Host, "host", Constant, 38;
    SagemeshRefused, "sagemesh-refused", Constant, 0;
    SagemeshTiming, "sagemesh-timing", Constant, 0;
    Server, "server", Constant, 54;
    Te, "te", Constant, 0;
    UserAgent, "user-agent", Constant, 58;
    Vary, "vary", Constant, 59;
    XForwardedClientCert, "x-forwarded-client-cert", Constant, 0;
    ContentLength, "content-length", PerCall, 28;
    Date, "date", PerCall, 33;
    GrpcMessage, "grpc-message", PerCall, 0;
    GrpcPreviousRpcAttempts, "grpc-previous-rpc-attempts", PerCall, 0;
    GrpcStatusDetails, "grpc-status-details-bin", PerCall, 0;
    GrpcTags, "grpc-tags-bin", PerCall, 0;
    GrpcTimeout, "grpc-timeout", PerCall, 0;
    GrpcTrace, "grpc-trace-bin", PerCall, 0;
    SagemeshServerUs, "sagemesh-server-us", PerCall, 0;
    Traceparent, "traceparent", PerCall, 0;
    Tracestate, "tracestate", PerCall, 0;
    Authorization, "authorization", Secret, 23;
    Cookie, "cookie", Secret, 32;
    ProxyAuthorization, "proxy-authorization", Secret, 49;
    SetCookie, "set-cookie", Secret, 55;
    Connection, "connection", OfConnection, 0;
    KeepAlive, "keep-alive", OfConnection, 0;
    ProxyConnection, "proxy-connection", OfConnection, 0;
    TransferEncoding, "transfer-encoding", OfConnection, 57;
    Upgrade, "upgrade", OfConnection, 0;
}

/// A power of two, above the number of names.
const N_PLACES: usize = 128;
/// One place for each name that is known: [`place`] puts no two into one.
static PLACES: [Name; N_PLACES] = {
    let mut places = [Name::Unknown; N_PLACES];
    let mut at = 1;
    while at < NAMES {
        let name = Name::ALL[at];
        let place = place(name.text().as_bytes());
        assert!(matches!(places[place], Name::Unknown), "two names in one place: find other factors");
        places[place] = name;
        at += 1;
    }
    places
};

/// Where a name that is not empty would lie. The factors were found by trying.
const fn place(bytes: &[u8]) -> usize {
    let n = bytes.len();
    let (first, middle, last) = (bytes[0] as usize, bytes[n / 2] as usize, bytes[n - 1] as usize);
    (n * 32 + first * 35 + middle * 49 + last * 33) % N_PLACES
}

impl Name {
    /// [`Name::of`] for tables that are made when this is compiled.
    pub(crate) const fn of_const(bytes: &[u8]) -> Self {
        let name = PLACES[place(bytes)];
        let text = name.text().as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if text.len() != bytes.len() || text[at] != bytes[at] {
                return Self::Unknown;
            }
            at += 1;
        }
        name
    }

    /// The name that these bytes are.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Unknown;
        }
        let name = PLACES[place(bytes)];
        if name.text().as_bytes() == bytes { name } else { Self::Unknown }
    }

    /// Whether it is a pseudo-header field that is known.
    pub const fn is_pseudo(self) -> bool {
        matches!(
            self,
            Self::Authority | Self::Method | Self::Path | Self::Scheme | Self::Status | Self::Protocol
        )
    }
}
