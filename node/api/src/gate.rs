//! What stands before every handler: whether the caller may, and that the call ends.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt;
use tracing::{debug, info};

use identity::{Members, Role};
use types::{Now, Reason, Refusal};

use crate::config::CALL_TIMEOUT;
use crate::metrics::{Count, Counts};
use crate::origin::Origin;
use crate::refusal;
use crate::roles::{self, Least};

/// Lets calls through to the handlers.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) routes: Routes,
    pub(crate) members: watch::Receiver<Arc<Members>>,
    pub(crate) counts: Arc<Counts>,
}

impl Gate {
    /// Answers a call. A stream that it begins goes on after that.
    pub(crate) async fn call(&self, origin: &Origin, mut request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        // What is not there is for the routes to say, to whoever was let in.
        let least = roles::least(path);
        let members = Arc::clone(&self.members.borrow());
        if let Err(refusal) = origin.check(least.unwrap_or(Least::Anyone), Now::read(), &members) {
            self.counts.add(Count::CallRefused);
            info!(rpc.method = %path.escape_default(), caller = %origin, reason = %refusal.reason, "refused a call");
            return refusal::status(&refusal).into_http();
        }
        self.counts.add(Count::Called);
        match least {
            Some(Least::Role(Role::Admin)) => info!(rpc.method = path, caller = %origin, "admin call"),
            _ => debug!(rpc.method = %path.escape_default(), caller = %origin, "call"),
        }
        request.extensions_mut().insert(origin.clone());
        match timeout(CALL_TIMEOUT, self.routes.clone().oneshot(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => {
                self.counts.add(Count::CallTimedOut);
                refusal::status(&timed_out()).into_http()
            }
        }
    }
}

fn timed_out() -> Refusal {
    Reason::DeadlineExceeded.because(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))
}
