//! Seeds: inputs that are good, written where libFuzzer looks for them before it starts.

use std::path::Path;

use types::Digest;

/// Writes `seeds` into the corpus that this program was told to use: its first argument that is a folder. To
/// be called while the target starts.
pub fn write<S: AsRef<[u8]>>(seeds: impl IntoIterator<Item = S>) {
    let corpus = std::env::args().skip(1).find(|argument| Path::new(argument).is_dir());
    let Some(corpus) = corpus else { return };
    for seed in seeds {
        let name = Digest::of(&[seed.as_ref()]).short();
        std::fs::write(Path::new(&corpus).join(format!("seed-{name}")), seed)
            .expect("the corpus can be written");
    }
}
