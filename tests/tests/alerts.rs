//! The alerts of the client's metrics, by Prometheus's own tool: that they can be read, that each is raised
//! when it has to be, and none when all is well.

use nfdrop_tests::{debian::run, programs::tool};
use std::{env, path::Path, process::Command};

#[test]
fn each_is_raised_when_it_has_to_be() {
    let Some(promtool) = tool("prometheus", "usr/bin/promtool") else {
        let offline = env::var_os("NFDROP_OFFLINE").is_some();
        assert!(offline, "promtool: run ci/install-deps test");
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/packaging/prometheus");
    let promtool = |arguments: &[&str]| {
        run(Command::new(&promtool).args(arguments).current_dir(&folder)).unwrap();
    };
    promtool(&["check", "rules", "--lint-fatal", "alerts.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);
}
