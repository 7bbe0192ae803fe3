//! Real programs on a real mount. A program that is not installed is skipped, and says so.

use std::path::Path;
use std::process::Command;

use crate::rig::{NOBODY, Rig, Wire, cannot_mount};

/// Runs a shell script as an ordinary user in the mount; it must succeed.
fn run(test: &str, needs: &str, script: &str) {
    if cannot_mount(test) {
        return;
    }
    for program in needs.split_whitespace() {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
        if !found.status.success() {
            println!("skipped {test}: needs {program}");
            return;
        }
    }
    let rig = Rig::new(NOBODY, Wire::Tcp);
    let output = shell(&rig.guest, script);
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn shell(directory: &Path, script: &str) -> std::process::Output {
    use std::os::unix::process::CommandExt;
    Command::new("sh")
        .args(["-euc", script])
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", directory)
        .env("TMPDIR", directory)
        .env("LC_ALL", "C")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap()
}

#[test]
fn tar_and_cp_copy_a_tree_exactly() {
    run(
        "tar_and_cp_copy_a_tree_exactly",
        "tar find cmp diff",
        r#"
        mkdir tree; cd tree
        for d in a b/c 'd e'; do mkdir -p "$d"; for n in $(seq 60); do seq $n $((n * 37)) > "$d/$n"; done; done
        ln a/1 b/linked; ln -s ../a/2 b/soft; mkfifo fifo; chmod 4711 a/3; chmod 000 a/4; chmod 1777 b
        touch -d '2001-02-03 04:05:06.789' a/5; truncate -s 10M sparse; chmod 600 a/4
        cd ..
        tar cf one.tar tree; mkdir out; tar xpf one.tar -C out; tar df one.tar -C out
        cp -a tree copy; diff -r --no-dereference -x fifo tree copy
        (cd tree; find . -printf '%p %m %n %s %T@ %l\n' | grep -v '^\. \|^./[^/]* [0-9]* [0-9]* 4096' | sort) > one
        (cd copy; find . -printf '%p %m %n %s %T@ %l\n' | grep -v '^\. \|^./[^/]* [0-9]* [0-9]* 4096' | sort) > two
        cmp one two
        test $(find tree -type f | wc -l) = 182
        test $(du -k tree/sparse | cut -f1) -lt 100
        rm -r tree copy out; test "$(ls)" = "$(printf 'one\none.tar\ntwo')"
        "#,
    );
}

#[test]
fn git_keeps_a_repository() {
    run(
        "git_keeps_a_repository",
        "git",
        r#"
        git init -q -b main r; cd r; git config user.email a@b.c; git config user.name n
        for n in $(seq 100); do seq $n > f$n; done
        git add .; git commit -qm one; test -z "$(git status --porcelain)"
        for n in $(seq 50); do echo more >> f$n; done
        git commit -qam two; git checkout -q HEAD~1; test "$(tail -1 f7)" = 7; git checkout -q main
        git branch other; git mv f1 g1; git commit -qm three; git gc -q; git fsck --strict
        cd ..; git clone -q r s; cd s; test "$(git log --oneline | wc -l)" = 3; test -z "$(git status --porcelain)"
        "#,
    );
}

#[test]
fn a_compiler_builds_and_the_program_runs() {
    run(
        "a_compiler_builds_and_the_program_runs",
        "gcc ar make",
        r#"
        mkdir p; cd p
        for n in 1 2 3 4 5 6; do echo "int f$n(int x) { return x * $n; }" > f$n.c; done
        printf '%s\n' '#include <stdio.h>' 'int f1(int), f6(int);' \
            'int main(void) { printf("%d", f1(2) + f6(4)); return 0; }' > main.c
        printf 'prog: main.o lib.a\n\tgcc -g -o prog main.o lib.a\nlib.a: f1.o f2.o f3.o f4.o f5.o f6.o\n\tar rcs lib.a $^\n' > Makefile
        make -j4 > log; test "$(./prog)" = 26; make | grep -q 'up to date'
        gcc -shared -fPIC -o libf.so f1.c f6.c; gcc -o prog2 main.c -L. -lf -Wl,-rpath,"$PWD"; test "$(./prog2)" = 26
        "#,
    );
}

#[test]
fn sqlite_keeps_a_database() {
    run(
        "sqlite_keeps_a_database",
        "sqlite3",
        r#"
        sqlite3 a.db 'create table t (n integer primary key, s text);'
        for who in 1 2 3; do
            (for n in $(seq 15); do sqlite3 -cmd '.timeout 20000' a.db "insert into t (s) values ('$who $n');"; done) &
        done; wait
        test $(sqlite3 a.db 'select count(*) from t') = 45
        test $(sqlite3 a.db 'pragma integrity_check') = ok
        sqlite3 a.db 'pragma journal_mode = truncate; begin; delete from t; rollback; vacuum; select count(*) from t;' | grep -q 45
        "#,
    );
}

#[test]
fn python_maps_imports_and_locks() {
    run(
        "python_maps_imports_and_locks",
        "python3",
        r#"
        mkdir pkg; echo 'def f(): return 42' > pkg/mod.py; touch pkg/__init__.py
        python3 - <<'P'
import fcntl, mmap, os, sys, tempfile, shutil, subprocess, time
sys.path.insert(0, '.')
import pkg.mod
assert pkg.mod.f() == 42 and os.path.exists('pkg/__pycache__')
with open('m', 'wb+') as f:
    f.truncate(1 << 20)
    m = mmap.mmap(f.fileno(), 0)
    m[500000:500005] = b'hello'
    m.flush()
    assert os.pread(f.fileno(), 5, 500000) == b'hello'
    os.pwrite(f.fileno(), b'world', 500000)
    assert m[500000:500005] == b'world'
pid = os.fork()
if pid == 0:
    f = open('m', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(.4); os._exit(0)
time.sleep(.2)
g = open('m', 'r+')
try: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB); raise SystemExit('got a lock that is held')
except BlockingIOError: pass
start = time.time(); fcntl.lockf(g, fcntl.LOCK_EX); assert time.time() - start < 2; os.wait()
# The classic: any close drops a process's record locks.
h = open('m', 'r+'); h.close()
assert subprocess.call([sys.executable, '-c', "import fcntl; fcntl.lockf(open('m','r+'), fcntl.LOCK_EX|fcntl.LOCK_NB)"]) == 0
d = tempfile.mkdtemp(dir='.'); open(d + '/x', 'w').write('x'); shutil.rmtree(d)
os.setxattr('m', 'user.k', b'v'); assert os.listxattr('m') == ['user.k']
fd = os.open('m', os.O_RDWR | os.O_APPEND); os.write(fd, b'end'); assert os.fstat(fd).st_size == (1 << 20) + 3
src = open('m', 'rb'); dst = open('n', 'wb'); assert os.sendfile(dst.fileno(), src.fileno(), 0, 1 << 20) == 1 << 20
P
        "#,
    );
}
