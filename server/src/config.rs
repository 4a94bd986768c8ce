//! Configuration: flags, environment and file, read once, before anything else happens.
//!
//! A flag wins over its environment variable, that over the file, that over the default. No other module reads the
//! environment.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Fatal};
use crate::sources;
use crate::stores::{Credentials, DEFAULT_STORE, StoreSetting};

/// The imageops service: checks, compresses, takes in and hands out virtual-machine images.
#[derive(Debug, Parser)]
#[command(name = "imageops-server", version)]
pub struct Cli {
    /// Settings.
    #[command(flatten)]
    pub settings: Settings,
    /// Reads settings from this TOML file too; its names are those of the flags, with underscores.
    #[arg(long, env = "IMAGEOPS_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Prints the settings in force as TOML and exits.
    #[arg(long)]
    pub print_config: bool,
    /// What to do in place of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do in place of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes, lists and revokes access keys for `--auth token`.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Copies the images of an EdgeGallery file-system service into the store. The server must be stopped; the old
    /// installation is only read. What was imported before is passed over.
    ImportEdgegallery(Box<ImportEdgegallery>),
}

/// Which installation to import, and where its table is: in a database, or exported from one.
#[derive(Debug, Args)]
pub struct ImportEdgegallery {
    /// Directory of the images, `/usr/app/vmImage` in the service's container.
    #[arg(long, value_name = "DIR")]
    pub directory: PathBuf,
    /// Database with the table `image_d_b`: `postgres://user:password@host/database`. It wins over the variables.
    #[arg(long, value_name = "URL", conflicts_with = "table")]
    pub database_url: Option<String>,
    /// The table as a file: `\copy image_d_b to FILE csv header` in psql. It wins over the variables.
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Host of the database, as the service was told of it.
    #[arg(long, env = "POSTGRES_HOST", value_name = "HOST")]
    pub postgres_host: Option<String>,
    /// Its port [default: 5432].
    #[arg(long, env = "POSTGRES_PORT", value_name = "PORT")]
    pub postgres_port: Option<String>,
    /// Its name.
    #[arg(long, env = "POSTGRES_DB_NAME", value_name = "NAME")]
    pub postgres_db_name: Option<String>,
    /// The user.
    #[arg(long, env = "POSTGRES_USERNAME", value_name = "NAME")]
    pub postgres_username: Option<String>,
    /// Their password; give it by environment, since other users see command lines.
    #[arg(long, env = "POSTGRES_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub postgres_password: Option<String>,
    /// Says what would be done, and does nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// What to do with access keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Makes a key and prints its secret, once.
    Create(CreateKey),
    /// Lists all keys, revoked ones too; secrets are not kept and cannot be shown.
    List,
    /// Revokes a key at once.
    Revoke {
        /// The key: `keys/{uuid}` or the uuid alone.
        key: String,
    },
}

/// The key that is to be made.
#[derive(Debug, Args)]
pub struct CreateKey {
    /// What the key allows; `admin` includes all others.
    #[arg(long, value_delimiter = ',', default_value = "read,write,delete", value_name = "SCOPES")]
    pub scopes: Vec<String>,
    /// Tenant that the key acts for; the built-in one, which owns the image root, when absent.
    #[arg(long)]
    pub tenant: Option<String>,
    /// A label to know it by.
    #[arg(long, default_value = "")]
    pub label: String,
    /// Days after which it opens nothing any more; without it the key opens until it is revoked.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub expiry_days: Option<u32>,
    /// Binds the key to this client certificate, in PEM, for `--auth mtls`; it has no secret then.
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
}

/// How callers prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Nobody is asked; everyone is administrator of the built-in tenant.
    None,
    /// Every call carries a key made by `imageops-server key create`.
    Token,
    /// Every call comes with a client certificate that a key is bound to.
    Mtls,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Form of `imageInfo.filename` in the legacy surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegacyFilename {
    /// The image root and the name.
    Path,
    /// The last component alone.
    Base,
}

/// Members of the answers of the EdgeGallery file-system surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LegacyProfile {
    /// Those of v1.3: strict clients refuse any other.
    Seed,
    /// Those of the last builds: sizes, and how the compression is.
    Late,
}

/// Settings as they were given; absent ones come from the next layer.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Directory of the catalogue, the store and what is being staged [default: $XDG_DATA_HOME/imageops].
    #[arg(long, env = "IMAGEOPS_DATA_DIR", global = true, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL database that holds the catalogue, `postgres://user@host/database`; the password may come from
    /// PGPASSWORD or ~/.pgpass. One server for each database [default: an SQLite file in the data directory].
    #[arg(long, env = "IMAGEOPS_CATALOGUE_URL", global = true, value_name = "URL", hide_env_values = true)]
    pub catalogue_url: Option<String>,
    /// Image root: `file` sources and outputs are names below it [default: `images` in the data directory].
    #[arg(long, env = "IMAGE_PATH", value_name = "DIR")]
    pub image_path: Option<PathBuf>,
    /// Address of gRPC; port 0 takes a free one [default: 127.0.0.1:50051].
    #[arg(long, env = "IMAGEOPS_GRPC_LISTEN", value_name = "ADDRESS")]
    pub grpc_listen: Option<SocketAddr>,
    /// Address of REST; port 0 takes a free one [default: 127.0.0.1:5000].
    #[arg(long, env = "IMAGEOPS_HTTP_LISTEN", value_name = "ADDRESS")]
    pub http_listen: Option<SocketAddr>,
    /// Further addresses of REST, for sites that expect the ports of the services that this one replaces, such as
    /// EdgeGallery's 9500 [default: none].
    #[arg(long, env = "IMAGEOPS_HTTP_LISTEN_ALSO", value_delimiter = ',', value_name = "ADDRESSES")]
    pub http_listen_also: Option<Vec<SocketAddr>>,
    /// A store beside that in the data directory: NAME=DIRECTORY or NAME=s3://BUCKET/PREFIX, with options behind a `?`:
    /// weight, limit_bytes, endpoint, region, path_style, allow_http; may repeat [default: none].
    #[arg(long = "store", env = "IMAGEOPS_STORES", value_delimiter = ' ', value_name = "NAME=PLACE")]
    pub stores: Option<Vec<StoreSetting>>,
    /// Directories below which stores may be registered over the API [default: none].
    #[arg(long, env = "IMAGEOPS_STORE_ROOTS", value_delimiter = ',', value_name = "DIRS")]
    pub store_roots: Option<Vec<PathBuf>>,
    /// Name of the access key to buckets.
    #[arg(long, env = "AWS_ACCESS_KEY_ID", value_name = "NAME", hide_env_values = true)]
    pub s3_access_key_id: Option<String>,
    /// Its secret; give it by environment or file, since other users see command lines.
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", value_name = "SECRET", hide_env_values = true)]
    pub s3_secret_access_key: Option<String>,
    /// Whether a check is started with each upload that does not say [default: false].
    #[arg(long, env = "IMAGEOPS_CHECK_UPLOADS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub check_uploads: Option<bool>,
    /// Days within which every stored byte is read and compared with its digest; 0: never [default: 14].
    #[arg(long, env = "IMAGEOPS_SCRUB_DAYS", value_name = "DAYS")]
    pub scrub_days: Option<u32>,
    /// Bytes that images converted on their way out may take until they are asked for again [default: 20 GiB].
    #[arg(long, env = "IMAGEOPS_CONVERSION_CACHE_BYTES", value_name = "BYTES")]
    pub conversion_cache_bytes: Option<u64>,
    /// How callers prove who they are; must be given when an address beyond loopback is listened on [default: none].
    #[arg(long, env = "IMAGEOPS_AUTH", value_name = "MODE")]
    pub auth: Option<AuthMode>,
    /// Certificate of both ports, in PEM, with those that lead to its authority: TLS, and nothing but TLS. Read again when
    /// it changes, and at SIGHUP [default: none].
    #[arg(long, env = "IMAGEOPS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, env = "IMAGEOPS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Authorities whose client certificates are taken, in PEM; every call but a probe needs one then [default: none].
    #[arg(long, env = "IMAGEOPS_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Jobs that run at the same time, 1 to 256 [default: number of cores].
    #[arg(long, env = "IMAGEOPS_WORKERS", value_name = "N")]
    pub workers: Option<u32>,
    /// Threads of one job, 1 to 256 [default: number of cores].
    #[arg(long, env = "IMAGEOPS_JOB_THREADS", value_name = "N")]
    pub job_threads: Option<u32>,
    /// Jobs of one tenant that may be queued or running; all tenants together may have ten times as many [default: 1000].
    #[arg(long, env = "IMAGEOPS_QUEUE_LIMIT", value_name = "N")]
    pub queue_limit: Option<u64>,
    /// Calls of one tenant that may run at the same time, streams too; 0: any number. Of no effect with `--auth none`, where
    /// there is one tenant [default: 1024].
    #[arg(long, env = "IMAGEOPS_TENANT_CALLS_MAX", value_name = "N")]
    pub tenant_calls_max: Option<u32>,
    /// Calls of one tenant that may begin in a second, after a pause twice as many at once; 0: any number. Of no effect with
    /// `--auth none` [default: 1000].
    #[arg(long, env = "IMAGEOPS_TENANT_CALLS_PER_SECOND", value_name = "N")]
    pub tenant_calls_per_second: Option<u32>,
    /// Seconds that one attempt of a job may take [default: 3600].
    #[arg(long, env = "IMAGEOPS_TIMEOUT", value_name = "SECONDS")]
    pub job_timeout_seconds: Option<f64>,
    /// How often a job is taken up again after a crash, the first time included [default: 3].
    #[arg(long, env = "IMAGEOPS_JOB_ATTEMPTS", value_name = "N")]
    pub job_attempts: Option<u32>,
    /// Days that ended jobs are kept [default: 30].
    #[arg(long, env = "IMAGEOPS_JOB_RETENTION_DAYS", value_name = "DAYS")]
    pub job_retention_days: Option<u32>,
    /// Hours after its last bytes that an upload is given up [default: 24].
    #[arg(long, env = "IMAGEOPS_UPLOAD_EXPIRY_HOURS", value_name = "HOURS")]
    pub upload_expiry_hours: Option<u32>,
    /// Days that deleted images stay in the trash; with 0 they go with the next sweep [default: 3].
    #[arg(long, env = "IMAGEOPS_TRASH_DAYS", value_name = "DAYS")]
    pub trash_days: Option<u32>,
    /// Uploads whose streams may be open at the same time [default: 128].
    #[arg(long, env = "IMAGEOPS_UPLOADS_MAX", value_name = "N")]
    pub uploads_max: Option<u32>,
    /// Largest file taken in, in bytes [default: 1 TiB].
    #[arg(long, env = "IMAGEOPS_UPLOAD_MAX_BYTES", value_name = "BYTES")]
    pub upload_max_bytes: Option<u64>,
    /// Largest virtual size of an image, in bytes [default: 16 TiB].
    #[arg(long, env = "IMAGEOPS_VIRTUAL_SIZE_MAX_BYTES", value_name = "BYTES")]
    pub virtual_size_max_bytes: Option<u64>,
    /// Hosts, addresses and networks inside that images may be imported from all the same, such as `mirror.internal` or
    /// `10.1.0.0/16`. What lies on the public internet needs no entry [default: none].
    #[arg(long, env = "IMAGEOPS_IMPORT_ALLOW", value_delimiter = ',', value_name = "HOSTS_OR_CIDRS")]
    pub import_allow: Option<Vec<String>>,
    /// Ports that images may be imported from: numbers, or ranges like `8000-8100` [default: 80,443].
    #[arg(long, env = "IMAGEOPS_IMPORT_PORTS", value_delimiter = ',', value_name = "PORTS")]
    pub import_ports: Option<Vec<String>>,
    /// Whether images may be imported over plain HTTP too [default: true].
    #[arg(long, env = "IMAGEOPS_IMPORT_HTTP", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub import_http: Option<bool>,
    /// PEM file with certificates that sources of imports may bear beside those that the system trusts [default: none].
    #[arg(long, env = "IMAGEOPS_IMPORT_CA_FILE", value_name = "FILE")]
    pub import_ca_file: Option<PathBuf>,
    /// Seconds that running uploads and downloads are given at shutdown [default: 30].
    #[arg(long, env = "IMAGEOPS_DRAIN_SECONDS", value_name = "SECONDS")]
    pub drain_seconds: Option<u32>,
    /// Seconds of these at whose beginning connections are still let in and told that the server is not ready, so that a
    /// balancer turns away before they are refused: at least as long as it takes to look twice [default: 0].
    #[arg(long, env = "IMAGEOPS_UNREADY_SECONDS", value_name = "SECONDS")]
    pub unready_seconds: Option<u32>,
    /// Form of the log on standard error [default: text].
    #[arg(long, env = "IMAGEOPS_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, for instance `info` or `imageops_server=debug` [default: info].
    #[arg(long, env = "IMAGEOPS_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// File that tells who changed what and who was refused, one JSON object a line; it is appended to, and opened anew at
    /// SIGHUP [default: the log, as `audit`].
    #[arg(long, env = "IMAGEOPS_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// Form of `imageInfo.filename` in the EdgeGallery surface [default: path].
    #[arg(long, env = "IMAGEOPS_LEGACY_FILENAME", value_name = "FORM")]
    pub legacy_filename: Option<LegacyFilename>,
    /// Members of the EdgeGallery file-system answers [default: seed].
    #[arg(long, env = "IMAGEOPS_LEGACY_PROFILE", value_name = "PROFILE")]
    pub legacy_profile: Option<LegacyProfile>,
    /// Origins that browsers may call the EdgeGallery paths from, or `*` [default: *].
    #[arg(long, env = "IMAGEOPS_CORS_ORIGINS", value_delimiter = ',', value_name = "ORIGINS")]
    pub cors_origins: Option<Vec<String>>,
    /// Read so that old deployments start; nothing is put there: jobs are rows of the catalogue.
    #[arg(long, env = "TMP_PATH", hide = true, value_name = "DIR")]
    pub tmp_path: Option<PathBuf>,
}

/// Settings in force.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// See [`Settings::data_dir`].
    pub data_dir: PathBuf,
    /// See [`Settings::catalogue_url`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalogue_url: Option<String>,
    /// See [`Settings::image_path`].
    pub image_path: PathBuf,
    /// See [`Settings::grpc_listen`].
    pub grpc_listen: SocketAddr,
    /// See [`Settings::http_listen`].
    pub http_listen: SocketAddr,
    /// See [`Settings::http_listen_also`].
    pub http_listen_also: Vec<SocketAddr>,
    /// See [`Settings::stores`].
    pub stores: Vec<StoreSetting>,
    /// See [`Settings::store_roots`].
    pub store_roots: Vec<PathBuf>,
    /// See [`Settings::s3_access_key_id`] and its secret.
    #[serde(skip)]
    pub credentials: Credentials,
    /// See [`Settings::check_uploads`].
    pub check_uploads: bool,
    /// See [`Settings::scrub_days`].
    pub scrub_days: u32,
    /// See [`Settings::conversion_cache_bytes`].
    pub conversion_cache_bytes: u64,
    /// See [`Settings::auth`].
    pub auth: AuthMode,
    /// See [`Settings::tls_cert`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// See [`Settings::tls_key`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// See [`Settings::tls_client_ca`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca: Option<PathBuf>,
    /// See [`Settings::workers`].
    pub workers: u32,
    /// See [`Settings::job_threads`].
    pub job_threads: u32,
    /// See [`Settings::queue_limit`].
    pub queue_limit: u64,
    /// See [`Settings::tenant_calls_max`].
    pub tenant_calls_max: u32,
    /// See [`Settings::tenant_calls_per_second`].
    pub tenant_calls_per_second: u32,
    /// See [`Settings::job_timeout_seconds`].
    pub job_timeout_seconds: f64,
    /// See [`Settings::job_attempts`].
    pub job_attempts: u32,
    /// See [`Settings::job_retention_days`].
    pub job_retention_days: u32,
    /// See [`Settings::upload_expiry_hours`].
    pub upload_expiry_hours: u32,
    /// See [`Settings::trash_days`].
    pub trash_days: u32,
    /// See [`Settings::uploads_max`].
    pub uploads_max: u32,
    /// See [`Settings::upload_max_bytes`].
    pub upload_max_bytes: u64,
    /// See [`Settings::virtual_size_max_bytes`].
    pub virtual_size_max_bytes: u64,
    /// See [`Settings::import_allow`].
    pub import_allow: Vec<String>,
    /// See [`Settings::import_ports`].
    pub import_ports: Vec<String>,
    /// See [`Settings::import_http`].
    pub import_http: bool,
    /// See [`Settings::import_ca_file`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub import_ca_file: Option<PathBuf>,
    /// See [`Settings::drain_seconds`].
    pub drain_seconds: u32,
    /// See [`Settings::unready_seconds`].
    pub unready_seconds: u32,
    /// See [`Settings::log_format`].
    pub log_format: LogFormat,
    /// See [`Settings::log`].
    pub log: String,
    /// See [`Settings::audit_log`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit_log: Option<PathBuf>,
    /// See [`Settings::legacy_filename`].
    pub legacy_filename: LegacyFilename,
    /// See [`Settings::legacy_profile`].
    pub legacy_profile: LegacyProfile,
    /// See [`Settings::cors_origins`].
    pub cors_origins: Vec<String>,
}

impl Config {
    /// Joins the layers and checks the whole; the error is one line that names the setting.
    pub fn load(flags: Settings, file: Option<&Path>) -> Result<Self, Fatal> {
        let file = match file {
            Some(path) => read_file(path)?,
            None => Settings::default(),
        };
        let auth_was_chosen = flags.auth.is_some() || file.auth.is_some();
        let config = Self::join(flags, file)?;
        config.check(auth_was_chosen)?;
        Ok(config)
    }

    fn join(flags: Settings, file: Settings) -> Result<Self, Fatal> {
        let cores =
            std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(256));
        let data_dir = match flags.data_dir.or(file.data_dir) {
            Some(data_dir) => data_dir,
            None => default_data_dir()?,
        };
        let image_path = flags.image_path.or(file.image_path).unwrap_or_else(|| data_dir.join("images"));
        Ok(Self {
            image_path,
            data_dir,
            catalogue_url: flags.catalogue_url.or(file.catalogue_url),
            grpc_listen: flags
                .grpc_listen
                .or(file.grpc_listen)
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 50051))),
            http_listen: flags
                .http_listen
                .or(file.http_listen)
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 5000))),
            http_listen_also: flags.http_listen_also.or(file.http_listen_also).unwrap_or_default(),
            stores: flags.stores.or(file.stores).unwrap_or_default(),
            store_roots: flags.store_roots.or(file.store_roots).unwrap_or_default(),
            credentials: Credentials {
                access_key: flags.s3_access_key_id.or(file.s3_access_key_id).unwrap_or_default(),
                secret_key: flags.s3_secret_access_key.or(file.s3_secret_access_key).unwrap_or_default(),
            },
            check_uploads: flags.check_uploads.or(file.check_uploads).unwrap_or(false),
            scrub_days: flags.scrub_days.or(file.scrub_days).unwrap_or(14),
            conversion_cache_bytes: flags
                .conversion_cache_bytes
                .or(file.conversion_cache_bytes)
                .unwrap_or(20 << 30),
            auth: flags.auth.or(file.auth).unwrap_or(AuthMode::None),
            tls_cert: flags.tls_cert.or(file.tls_cert),
            tls_key: flags.tls_key.or(file.tls_key),
            tls_client_ca: flags.tls_client_ca.or(file.tls_client_ca),
            workers: flags.workers.or(file.workers).unwrap_or(cores),
            job_threads: flags.job_threads.or(file.job_threads).unwrap_or(cores),
            queue_limit: flags.queue_limit.or(file.queue_limit).unwrap_or(1000),
            tenant_calls_max: flags.tenant_calls_max.or(file.tenant_calls_max).unwrap_or(1024),
            tenant_calls_per_second: flags
                .tenant_calls_per_second
                .or(file.tenant_calls_per_second)
                .unwrap_or(1000),
            job_timeout_seconds: flags.job_timeout_seconds.or(file.job_timeout_seconds).unwrap_or(3600.0),
            job_attempts: flags.job_attempts.or(file.job_attempts).unwrap_or(3),
            job_retention_days: flags.job_retention_days.or(file.job_retention_days).unwrap_or(30),
            upload_expiry_hours: flags.upload_expiry_hours.or(file.upload_expiry_hours).unwrap_or(24),
            trash_days: flags.trash_days.or(file.trash_days).unwrap_or(3),
            uploads_max: flags.uploads_max.or(file.uploads_max).unwrap_or(128),
            upload_max_bytes: flags.upload_max_bytes.or(file.upload_max_bytes).unwrap_or(1 << 40),
            virtual_size_max_bytes: flags
                .virtual_size_max_bytes
                .or(file.virtual_size_max_bytes)
                .unwrap_or(16 << 40),
            import_allow: flags.import_allow.or(file.import_allow).unwrap_or_default(),
            import_ports: flags
                .import_ports
                .or(file.import_ports)
                .unwrap_or_else(|| vec!["80".to_owned(), "443".to_owned()]),
            import_http: flags.import_http.or(file.import_http).unwrap_or(true),
            import_ca_file: flags.import_ca_file.or(file.import_ca_file),
            drain_seconds: flags.drain_seconds.or(file.drain_seconds).unwrap_or(30),
            unready_seconds: flags.unready_seconds.or(file.unready_seconds).unwrap_or(0),
            log_format: flags.log_format.or(file.log_format).unwrap_or(LogFormat::Text),
            log: flags.log.or(file.log).unwrap_or_else(|| "info".to_owned()),
            audit_log: flags.audit_log.or(file.audit_log),
            legacy_filename: flags.legacy_filename.or(file.legacy_filename).unwrap_or(LegacyFilename::Path),
            legacy_profile: flags.legacy_profile.or(file.legacy_profile).unwrap_or(LegacyProfile::Seed),
            cors_origins: flags.cors_origins.or(file.cors_origins).unwrap_or_else(|| vec!["*".to_owned()]),
        })
    }

    fn check(&self, auth_was_chosen: bool) -> Result<(), Fatal> {
        let bounds = [
            ("workers", u64::from(self.workers), 1, 256),
            ("job-threads", u64::from(self.job_threads), 1, 256),
            ("queue-limit", self.queue_limit, 1, 1_000_000),
            ("job-attempts", u64::from(self.job_attempts), 1, 100),
            ("job-retention-days", u64::from(self.job_retention_days), 1, 36_500),
            ("upload-expiry-hours", u64::from(self.upload_expiry_hours), 1, 87_600),
            ("trash-days", u64::from(self.trash_days), 0, 36_500),
            ("uploads-max", u64::from(self.uploads_max), 1, 100_000),
            ("upload-max-bytes", self.upload_max_bytes, 1, 1 << 62),
            ("virtual-size-max-bytes", self.virtual_size_max_bytes, 1, 1 << 62),
            ("drain-seconds", u64::from(self.drain_seconds), 0, 86_400),
            ("unready-seconds", u64::from(self.unready_seconds), 0, u64::from(self.drain_seconds)),
            ("scrub-days", u64::from(self.scrub_days), 0, 36_500),
            ("conversion-cache-bytes", self.conversion_cache_bytes, 0, 1 << 62),
        ];
        for (name, value, least, most) in bounds {
            if !(least..=most).contains(&value) {
                return Err(refuse(format!("--{name} is {value}, but must lie between {least} and {most}")));
            }
        }
        if !(1.0..=31_536_000.0).contains(&self.job_timeout_seconds) {
            return Err(refuse(format!(
                "--job-timeout-seconds is {}, but must lie between 1 and 31536000",
                self.job_timeout_seconds
            )));
        }
        let mut addresses: Vec<_> = [self.grpc_listen, self.http_listen].into();
        addresses.extend(&self.http_listen_also);
        addresses.retain(|address| address.port() != 0);
        addresses.sort();
        if addresses.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(refuse(
                "--grpc-listen, --http-listen and --http-listen-also name an address twice; give each a port of its own",
            ));
        }
        self.check_stores()?;
        self.check_tls()?;
        sources::policy(self)?;
        if !auth_was_chosen && self.auth == AuthMode::None && self.listens_beyond_loopback() {
            return Err(refuse(
                "listening beyond loopback lets everyone in who can reach the port: say --auth none if that is meant, or \
                 --auth token and make a key with `imageops-server key create`",
            ));
        }
        let is_postgres = |url: &String| url.starts_with("postgres://") || url.starts_with("postgresql://");
        if self.catalogue_url.as_ref().is_some_and(|url| !is_postgres(url)) {
            return Err(refuse("--catalogue-url must begin with postgres://; leave it out for SQLite"));
        }
        if self.image_path == self.data_dir {
            return Err(refuse(
                "--image-path and --data-dir name the same directory; the image root must not hold the catalogue's files \
                 side by side with images: use a sub-directory for one of them",
            ));
        }
        if tracing_subscriber::EnvFilter::try_new(&self.log).is_err() {
            return Err(refuse(format!("--log {:?} is no filter; try `info`", self.log)));
        }
        for origin in &self.cors_origins {
            if origin != "*" && origin.parse::<http::HeaderValue>().is_err() {
                return Err(refuse(format!("--cors-origins holds {origin:?}, which is no origin")));
            }
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), Fatal> {
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            return Err(refuse("--tls-cert and --tls-key come together"));
        }
        if self.tls_client_ca.is_some() && self.tls_cert.is_none() {
            return Err(refuse("--tls-client-ca needs --tls-cert and --tls-key"));
        }
        if self.auth == AuthMode::Mtls && self.tls_client_ca.is_none() {
            return Err(refuse(
                "--auth mtls needs --tls-client-ca: the authority of the clients' certificates",
            ));
        }
        Ok(())
    }

    fn check_stores(&self) -> Result<(), Fatal> {
        let mut names: Vec<_> = self.stores.iter().map(|store| store.name.as_str()).collect();
        names.push(DEFAULT_STORE);
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(refuse(format!(
                "--store names {:?} twice, or the store in the data directory: `{DEFAULT_STORE}`",
                pair[0]
            )));
        }
        match self.store_roots.iter().find(|root| !root.is_absolute()) {
            Some(root) => {
                Err(refuse(format!("--store-roots holds {}, which is no absolute path", root.display())))
            }
            None => Ok(()),
        }
    }

    /// Whether an address is listened on that other machines may reach.
    pub fn listens_beyond_loopback(&self) -> bool {
        let mut addresses =
            [self.grpc_listen, self.http_listen].into_iter().chain(self.http_listen_also.clone());
        !addresses.all(|address| address.ip().is_loopback())
    }

    /// The settings as a TOML file that can be read back with `--config`.
    pub fn to_toml(&self) -> Result<String, Fatal> {
        let mut text = String::from("# Settings in force; usable as a file for --config.\n");
        let body = toml::to_string(self).map_err(|error| Fatal::new(Exit::Internal, error.to_string()))?;
        let _ = write!(text, "{body}");
        Ok(text)
    }
}

fn refuse(message: impl Into<String>) -> Fatal {
    Fatal::new(Exit::Configuration, message)
}

fn read_file(path: &Path) -> Result<Settings, Fatal> {
    let text = fs::read_to_string(path).map_err(|error| {
        refuse(format!("the configuration file {} cannot be read: {error}", path.display()))
    })?;
    toml::from_str(&text).map_err(|error| {
        refuse(format!(
            "the configuration file {} is wrong: {}",
            path.display(),
            error.to_string().replace('\n', " ")
        ))
    })
}

fn default_data_dir() -> Result<PathBuf, Fatal> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("imageops"))
        .ok_or_else(|| {
            refuse("neither HOME nor XDG_DATA_HOME is set: name the data directory with --data-dir")
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn settings(arguments: &[&str]) -> Cli {
        Cli::try_parse_from([&["imageops-server", "--data-dir", "/d"], arguments].concat()).unwrap()
    }

    fn load(arguments: &[&str]) -> Result<Config, Fatal> {
        Config::load(settings(arguments).settings, None)
    }

    #[test]
    fn defaults_listen_on_loopback_without_authentication() {
        let config = load(&[]).unwrap();
        assert!(!config.listens_beyond_loopback());
        assert_eq!(config.auth, AuthMode::None);
        assert_eq!(config.image_path, Path::new("/d/images"));
    }

    #[test]
    fn listening_beyond_loopback_wants_a_choice() {
        let refused = load(&["--http-listen", "0.0.0.0:5000"]).unwrap_err();
        assert_eq!(refused.exit, Exit::Configuration);
        assert!(refused.message.contains("--auth"));
        assert!(load(&["--http-listen", "0.0.0.0:5000", "--auth", "none"]).is_ok());
        assert!(load(&["--http-listen", "0.0.0.0:5000", "--auth", "token"]).is_ok());
    }

    #[test]
    fn a_wrong_setting_is_one_line_that_names_it() {
        for (arguments, name) in [
            (["--workers", "0"], "--workers"),
            (["--job-timeout-seconds", "0"], "--job-timeout-seconds"),
            (["--http-listen", "127.0.0.1:50051"], "--http-listen"),
            (["--log", "=/=/"], "--log"),
            (["--catalogue-url", "sqlite://x"], "--catalogue-url"),
            (["--image-path", "/d"], "--image-path"),
            (["--tls-cert", "/c"], "--tls-key"),
            (["--tls-client-ca", "/c"], "--tls-client-ca"),
            (["--auth", "mtls"], "--tls-client-ca"),
            (["--import-allow", "10.0.0.0/99"], "--import-allow"),
            (["--import-ports", "80,x"], "--import-ports"),
        ] {
            let refused = load(&arguments).unwrap_err();
            assert!(refused.message.contains(name), "{refused}");
            assert!(!refused.message.contains('\n'));
        }
    }

    #[test]
    fn the_printed_settings_read_back() {
        let config = load(&["--workers", "7"]).unwrap();
        let file: Settings = toml::from_str(&config.to_toml().unwrap()).unwrap();
        assert_eq!(
            Config::join(Settings::default(), file).unwrap().to_toml().unwrap(),
            config.to_toml().unwrap()
        );
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let file = Settings { workers: Some(3), queue_limit: Some(9), ..Settings::default() };
        let config = Config::join(settings(&["--workers", "5"]).settings, file).unwrap();
        assert_eq!((config.workers, config.queue_limit), (5, 9));
    }
}
