//! The peers: nginx for downloads, Glance behind uWSGI, as its manual has it, for both.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::{request, try_request};

/// Longest time that a peer takes to come up.
const START_MAX: Duration = Duration::from_secs(90);

/// A peer that runs; it ends with this.
pub struct Peer {
    process: Child,
    pub address: SocketAddr,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // SIGTERM: both end their workers then.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }
}

impl Peer {
    fn start(mut command: Command, address: SocketAddr, path: &str) -> Option<Self> {
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let peer = Self { process, address };
        let deadline = Instant::now() + START_MAX;
        while Instant::now() < deadline {
            let answer = try_request(address, "GET", path, &[], 0, std::io::empty());
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Some(peer);
            }
            sleep(Duration::from_millis(100));
        }
        None
    }

    /// Serves the files below `root` as nginx does by its own defaults, with `sendfile` on.
    pub fn nginx(directory: &Path, root: &Path) -> Option<Self> {
        let address = free_address();
        let home = directory.join("nginx");
        fs::create_dir_all(&home).ok()?;
        let settings = format!(
            "daemon off; worker_processes 2; pid {home}/pid; error_log {home}/error.log; user root;\n\
             events {{}}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {home}/body; \
             proxy_temp_path {home}/p; fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n\
             server {{ listen {address}; root {root}; location = /ready {{ return 200; }} }} }}\n",
            home = home.display(),
            root = root.display(),
        );
        let path = home.join("nginx.conf");
        fs::write(&path, settings).ok()?;
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(&home).arg("-c").arg(&path);
        Self::start(command, address, "/ready")
    }

    /// Glance with its file store, SQLite and two uWSGI processes; without authentication.
    pub fn glance(directory: &Path, environment: &Path) -> Option<Self> {
        let address = free_address();
        let home = directory.join("glance");
        fs::create_dir_all(home.join("images")).ok()?;
        let policies = [
            "default",
            "add_image",
            "get_image",
            "get_images",
            "delete_image",
            "upload_image",
            "download_image",
        ];
        let policy: String = policies.iter().map(|name| format!("\"{name}\": \"\"\n")).collect();
        fs::write(home.join("policy.yaml"), policy).ok()?;
        let settings = format!(
            "[DEFAULT]\nenabled_backends = file:file\nlog_file = {home}/log\n\
             [glance_store]\ndefault_backend = file\n\
             [file]\nfilesystem_store_datadir = {home}/images\n\
             [os_glance_staging_store]\nfilesystem_store_datadir = {home}/staging\n\
             [os_glance_tasks_store]\nfilesystem_store_datadir = {home}/tasks\n\
             [database]\nconnection = sqlite:///{home}/glance.sqlite\n\
             [oslo_policy]\npolicy_file = {home}/policy.yaml\nenforce_scope = false\nenforce_new_defaults = false\n\
             [paste_deploy]\nconfig_file = {environment}/etc/glance/glance-api-paste.ini\n",
            home = home.display(),
            environment = environment.display(),
        );
        let path = home.join("glance-api.conf");
        fs::write(&path, settings).ok()?;
        let made = Command::new(environment.join("bin/glance-manage"))
            .arg("--config-file")
            .arg(&path)
            .arg("db_sync")
            .output()
            .ok()?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut command = Command::new(environment.join("bin/uwsgi"));
        command
            .args(["--http-socket", &address.to_string(), "--module", "glance.wsgi.api:application"])
            .args(["--processes", "2", "--threads", "2", "--lazy-apps", "--master", "--die-on-term"])
            .args(["--http-chunked-input", "--buffer-size", "65535"])
            .env("OS_GLANCE_CONFIG_DIR", &home)
            .env("OS_GLANCE_CONFIG_FILES", "glance-api.conf");
        Self::start(command, address, "/v2/images")
    }

    /// A record of Glance without bytes: its id.
    pub fn new_glance_image(&self) -> String {
        let body = json!({ "name": "bench", "disk_format": "raw", "container_format": "bare" }).to_string();
        let headers = [("content-type", "application/json")];
        let answer = request(self.address, "POST", "/v2/images", &headers, body.as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
        let image: Value = answer.json();
        image["id"].as_str().expect("the id of an image").to_owned()
    }

    /// Removes an image of Glance.
    pub fn remove_glance_image(&self, id: &str) {
        let answer = request(self.address, "DELETE", &format!("/v2/images/{id}"), &[], &[]);
        assert_eq!(answer.status, 204, "{answer:?}");
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}
