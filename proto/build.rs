//! Compiles every `.proto` of this folder with protox, so that nobody needs protoc.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=sagemesh");
    let mut files = Vec::new();
    collect(Path::new("sagemesh"), &mut files)?;
    files.sort();
    let mut config = prost_build::Config::new();
    config.enable_type_names().include_file("all.rs").compile_fds(protox::compile(files, ["."])?)?;
    Ok(())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
