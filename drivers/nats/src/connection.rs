//! One connection for a whole adapter, and the JSON API over it. Everything here runs on the thread
//! of [`crate::thread`].

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::context::{Context, ContextBuilder, RequestError, RequestErrorKind};
use async_nats::jetstream::response::Response;
use async_nats::{Client, ClientError, ConnectOptions, Event, ServerAddr, ServerError};
use net_shell::bus::adapter::AdapterError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::config::{JetStream, Login};
use crate::error::unconnected;

/// Silence after which a server is asked whether it lives. The third unanswered question ends the
/// connection.
const PING: Duration = Duration::from_secs(5);
/// Messages of one subscription that may wait for this process; a read asks for fewer.
pub const WAITING: usize = 1 << 16;

/// What the connection is doing.
#[derive(Clone, Debug)]
pub struct Line {
    /// Connected.
    pub up: bool,
    /// Rises with every end of a connection. What was sent before may be lost.
    pub epoch: u64,
    /// What the server said about rights, last.
    pub denied: Option<String>,
    /// How often it said so.
    pub denials: u64,
    /// Why connecting fails.
    trouble: Option<AdapterError>,
}

impl Line {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Connected => (self.up, self.trouble) = (true, None),
            Event::Disconnected | Event::Closed => {
                self.up = false;
                self.epoch += 1;
            }
            Event::ServerError(ServerError::AuthorizationViolation) => {
                self.trouble = Some(AdapterError::Denied("authorization violation".into()));
            }
            Event::ServerError(ServerError::Other(text)) if text.contains("ermissions") => {
                self.denials += 1;
                self.denied = Some(text);
            }
            Event::ClientError(ClientError::Other(text)) if text.contains("authorization") => {
                self.trouble = Some(AdapterError::Denied(text));
            }
            Event::ClientError(error) => self.trouble = Some(AdapterError::Connection(error.to_string())),
            _ => {}
        }
    }
}

/// A connection that comes back by itself.
#[derive(Debug)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// What is asked of the engine.
    pub options: JetStream,
    context: Context,
    api: String,
    line: watch::Receiver<Line>,
}

impl Connection {
    /// Connects. `Ok`: the server knows this client and let it in.
    pub async fn open(options: JetStream) -> Result<Self, AdapterError> {
        // An application with two libraries for TLS must choose; here ring does the work.
        _ = async_nats::rustls::crypto::ring::default_provider().install_default();
        let address = |text: &String| {
            text.parse::<ServerAddr>()
                .map_err(|error| AdapterError::Config(format!("server address: {error}")))
        };
        let servers = options.servers.iter().map(address).collect::<Result<Vec<_>, _>>()?;
        let line = Line { up: true, epoch: 0, denied: None, denials: 0, trouble: None };
        let (tell, line) = watch::channel(line);
        let tell = std::sync::Arc::new(tell);
        let settings = settings(&options, &servers).await?.event_callback(move |event| {
            let tell = tell.clone();
            async move { tell.send_modify(|line| line.hear(event)) }
        });
        let limit = options.connect_timeout.saturating_mul(servers.len().max(1) as u32);
        let client = timeout(limit.saturating_add(options.request_timeout), settings.connect(&servers[..]))
            .await
            .map_err(|_| AdapterError::Timeout("connecting".into()))?
            .map_err(|error| unconnected(&error))?;
        let api = options.domain.as_ref().map_or("$JS.API".into(), |domain| format!("$JS.{domain}.API"));
        let context =
            ContextBuilder::new().timeout(options.request_timeout).api_prefix(&api).build(client.clone());
        Ok(Self { client, options, context, api, line })
    }

    /// What the connection does, and its changes.
    pub fn line(&self) -> watch::Receiver<Line> {
        self.line.clone()
    }

    /// How many connections ended.
    pub fn epoch(&self) -> u64 {
        self.line.borrow().epoch
    }

    /// Waits for a connection, as long as a request may take.
    pub async fn connected(&self) -> Result<(), AdapterError> {
        let mut line = self.line();
        match timeout(self.options.request_timeout, line.wait_for(|line| line.up)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(AdapterError::Shutdown),
            Err(_) => Err(self.down()),
        }
    }

    /// Why there is no connection.
    pub fn down(&self) -> AdapterError {
        let trouble = self.line.borrow().trouble.clone();
        trouble.unwrap_or_else(|| AdapterError::Connection("disconnected; trying again".into()))
    }

    /// The full subject of a request.
    pub fn api(&self, request: &str) -> String {
        format!("{}.{request}", self.api)
    }

    /// Asks the engine. The outer error: no usable answer; the inner one: the engine said no.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        request: String,
        body: &(impl Serialize + Sync),
    ) -> Result<Result<T, jetstream::Error>, AdapterError> {
        let denials = self.line.borrow().denials;
        match self.context.request::<_, _, Response<T>>(request.clone(), body).await {
            Ok(Response::Ok(answer)) => Ok(Ok(answer)),
            Ok(Response::Err { error }) => Ok(Err(error)),
            Err(error) => Err(self.unanswered(&request, &error, denials)),
        }
    }

    fn unanswered(&self, request: &str, error: &RequestError, denials: u64) -> AdapterError {
        if let Some(denied) = self.denied_since(denials) {
            return denied;
        }
        if !self.line.borrow().up {
            return self.down();
        }
        match error.kind() {
            RequestErrorKind::TimedOut => AdapterError::Timeout(request.into()),
            RequestErrorKind::NoResponders => AdapterError::Connection(
                "nobody answers for JetStream: it is not enabled, or its cluster has no leader".into(),
            ),
            _ => AdapterError::Protocol(format!("{request}: {error}")),
        }
    }

    /// What the server said about rights after `denials` earlier sayings.
    pub fn denied_since(&self, denials: u64) -> Option<AdapterError> {
        let line = self.line.borrow();
        let text = line.denied.clone().filter(|_| line.denials > denials)?;
        Some(AdapterError::Denied(text))
    }
}

async fn settings(options: &JetStream, servers: &[ServerAddr]) -> Result<ConnectOptions, AdapterError> {
    let mut settings = ConnectOptions::new()
        .name("net")
        .connection_timeout(options.connect_timeout)
        .request_timeout(Some(options.request_timeout))
        .ping_interval(PING)
        .subscription_capacity(WAITING)
        // Ours are valid by construction.
        .skip_subject_validation(true)
        .require_tls(options.tls.required)
        // 10 ms, doubling to 1.28 s.
        .reconnect_delay_callback(|attempt| match attempt {
            0 | 1 => Duration::ZERO,
            n => Duration::from_millis(10 << (n - 2).min(7)),
        });
    if options.tls.first {
        settings = settings.tls_first();
    }
    for file in &options.tls.roots {
        settings = settings.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &options.tls.client {
        settings = settings.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(match &options.login {
        Login::User(name, password) => settings.user_and_password(name.clone(), password.clone()),
        Login::Token(token) => settings.token(token.clone()),
        #[cfg(feature = "creds")]
        Login::Nkey(seed) => settings.nkey(seed.clone()),
        #[cfg(feature = "creds")]
        Login::Credentials(file) => {
            let failed = |error| AdapterError::Config(format!("{}: {error}", file.display()));
            settings.credentials_file(file).await.map_err(failed)?
        }
        Login::Address => {
            let named = servers.iter().find_map(|server| Some((server.username()?, server.password())));
            match named {
                Some((name, Some(password))) => settings.user_and_password(name.into(), password.into()),
                Some((token, None)) => settings.token(token.into()),
                None => settings,
            }
        }
    })
}
