// What runs around a contained program, in the languages of its interpreters. A guard reads the program from standard input,
// which is then at its end, and reports on descriptor 3: one line when the program begins, one line of JSON when it has ended.

/** Runs a Python program with an audit hook (PEP 578) that refuses what would reach beyond the scratch folder. */
export const pythonGuard = String.raw`
import json, os, posix, subprocess, sys, _posixsubprocess

class Refused(PermissionError):
    def __init__(self, kind, what):
        super().__init__(1, what + " is refused")
        self.kind = kind

source = sys.stdin.buffer.read().decode()
scratch = os.path.realpath(os.getcwd())
readable = [scratch, sys.base_prefix, *filter(None, sys.path), "/usr/lib", "/usr/share/zoneinfo", "/dev/null", "/dev/urandom"]
writable = [scratch, "/dev/null"]
writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
changes = {"os." + name for name in ("chflags", "chmod", "chown", "lchmod", "link", "mkdir", "remove", "removexattr",
                                     "rename", "rmdir", "setxattr", "truncate", "utime")}
lists = {"os.listdir", "os.scandir", "os.getxattr", "os.listxattr"}
networks = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "poplib.", "imaplib.", "nntplib.", "telnetlib.")
processes = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "pty.",
             "ctypes.", "resource.setrlimit", "resource.prlimit", "cpython.PyInterpreterState_New")

def inside(path, folders):
    if isinstance(path, int):
        return True
    path = os.path.realpath(os.fsdecode(path or "."))
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)

def audit(event, args):
    if event == "open":
        kind, folders = ("write", writable) if args[2] & writing else ("read", readable)
        if not inside(args[0], folders):
            raise Refused(kind, event)
    elif event in changes:
        if not all(inside(each, writable) for each in args if isinstance(each, (str, bytes))):
            raise Refused("write", event)
    elif event in lists:
        if not inside(args[0], readable):
            raise Refused("read", event)
    # A link made now may lead out later, and from another folder a relative path means another file.
    elif event == "os.symlink" or event == "os.chdir":
        raise Refused("write" if event == "os.symlink" else "read", event)
    elif event.startswith(networks) and event not in ("socket.__new__", "socket.gethostname"):
        raise Refused("network", event)
    elif event.startswith(processes):
        raise Refused("process", event)

def refuse(module, kind, *names):
    for name in names:
        if hasattr(module, name):
            def refused(*args, name=name, **options):
                raise Refused(kind, module.__name__ + "." + name)
            setattr(module, name, refused)

# What no audit event tells of.
for module in (os, posix):
    refuse(module, "write", "mkfifo", "mknod")
    refuse(module, "process", "setns", "unshare", "chroot")
refuse(subprocess, "process", "_fork_exec")
refuse(_posixsubprocess, "process", "fork_exec")
for name in ("ctypes", "_ctypes", "_cffi_backend", "sqlite3", "_sqlite3", "_dbm", "_gdbm", "readline", "_posixshmem",
             "_multiprocessing", "_xxsubinterpreters", "_interpreters", "_testcapi", "_testinternalcapi"):
    sys.modules[name] = None

def kind_of(error):
    while error is not None:
        if isinstance(error, Refused):
            return error.kind
        error = error.__cause__ or error.__context__
    return None

def run(write=os.write, leave=os._exit, dumps=json.dumps):
    def ends(outcome, message=""):
        try:
            sys.stdout.flush()
        finally:
            write(3, (dumps([outcome, message[:500]]) + "\n").encode())
            leave(0)

    try:
        code = compile(source, "program.py", "exec", dont_inherit=True)
    except MemoryError:
        ends("memory")
    except BaseException as error:
        ends("syntax", "%s: %s" % (type(error).__name__, error))
    write(3, b"begins\n")
    try:
        exec(code, {})
    except AssertionError as error:
        ends(kind_of(error) or "assertion", "AssertionError: %s" % error)
    except MemoryError:
        ends("memory", "MemoryError")
    except SystemExit as error:
        ends("exit", "it left with %r" % (error.code,))
    except BaseException as error:
        ends(kind_of(error) or "error", "%s: %s" % (type(error).__name__, error))
    ends("passed")

sys.addaudithook(audit)
run()
`;

/** What a guard in Node takes away first: its permission model refuses files and processes, so that networks are left. */
export const nodeRefusals = `
  const [fs, net, dgram, dns, vm] = ["fs", "net", "dgram", "dns", "vm"].map((name) => require("node:" + name));
  const { writeSync } = fs;
  const refuse = (kind, object, names = Object.keys(object)) => {
    for (const name of names.filter((each) => typeof object[each] === "function")) {
      const value = function () {
        throw Object.assign(new Error(name + " is refused"), { code: "ERR_ACCESS_DENIED", permission: kind });
      };
      Object.defineProperty(object, name, { value, writable: false, configurable: false });
    }
  };
  // http, https, http2, tls, fetch and WebSocket connect through net.Socket.
  refuse("network", net.Socket.prototype, ["connect"]);
  refuse("network", net.Server.prototype, ["listen"]);
  refuse("network", net, ["_createServerHandle"]);
  refuse("network", dgram);
  for (const each of [dns, dns.promises]) {
    refuse("network", each.Resolver.prototype, Object.getOwnPropertyNames(each.Resolver.prototype).slice(1));
    refuse("network", each);
  }
  refuse("process", process, ["kill", "_kill", "_debugProcess", "_debugEnd", "binding", "_linkedBinding", "dlopen", "execve"]);
  Object.defineProperty(process, "report", { value: undefined });
`;

/** How a program in Node ends: `fails` and `ends` report it, once. */
export const nodeEnds = String.raw`
  const kinds = { FileSystemWrite: "write", FileSystemRead: "read", network: "network" };
  const kindOf = (error) => {
    for (let each = error, depth = 0; each && depth < 10; each = each.cause ?? each.errors?.[0], depth++) {
      const { code, permission } = each;
      if (code === "ERR_ACCESS_DENIED") return permission ? (kinds[permission] ?? "process") : "write"; // a link
      if (code === "ERR_ASSERTION") return "assertion";
      if (each instanceof RangeError && /allocation failed/.test(each.message)) return "memory";
    }
    return "error";
  };
  const { stringify } = JSON;
  const exit = process.reallyExit.bind(process);
  const ends = (outcome, message = "") => {
    writeSync(3, stringify([outcome, message.slice(0, 500)]) + "\n");
    exit(0);
  };
  const fails = (error) => ends(kindOf(error), error instanceof Error ? error.name + ": " + error.message : String(error));
`;

/** Runs a JavaScript program under Node's permission model. */
export const javaScriptGuard = String.raw`{
  const assert = require("node:assert");
  ${nodeRefusals}
  const source = fs.readFileSync(0, "utf8");
  // As in sets of problems whose tests are calls of it.
  console.assert = (value, ...message) => assert(value, message.join(" ") || undefined);

  ${nodeEnds}
  let script;
  try {
    script = new vm.Script(source, { filename: "program.js" });
  } catch (error) {
    ends("syntax", error.name + ": " + error.message);
  }
  process.on("uncaughtException", fails);
  process.on("beforeExit", () => ends("passed"));
  process.on("exit", (code) => ends("exit", "it left with " + code));
  writeSync(3, "begins\n");
  try {
    script.runInThisContext();
  } catch (error) {
    fails(error);
  }
}`;

/**
 * Runs a command ($5 and after) in namespaces of its own: the folder $1 becomes a file system in memory whose only other
 * content are the system's programs and libraries, and what $2 lists, for reading. Its working folder is /scratch. The
 * processes that it starts end with it. $3 says to setpriv who it is, $4 is what starts it.
 */
export const namespaces = `
set -e
root=$1 kept=$2 who=$3 start=$4; shift 4
mount -t tmpfs -o size=64m,nr_inodes=10k scratch "$root"
cd "$root"
mkdir scratch dev old proc
chmod 777 scratch
mount -t proc proc proc
# Where memory is short, these are ended first.
echo 1000 > proc/self/oom_score_adj
IFS=:
for path in /usr /lib /lib32 /lib64 /bin /etc/ld.so.cache /etc/localtime /dev/null /dev/urandom $kept; do
  [ -e "$path" ] && [ ! -e ".$path" ] || continue
  mkdir -p ".$(dirname "$path")"
  if [ -L "$path" ]; then ln -s "$(readlink "$path")" ".$path"; continue; fi
  if [ -d "$path" ]; then mkdir ".$path"; else : > ".$path"; fi
  mount --rbind "$path" ".$path"
  case $path in /dev/*) ;; *) mount -o remount,bind,ro ".$path";; esac
done
pivot_root . old
cd /
# The system's own /proc has settings that this user might change.
umount -l /old
umount -l /proc
rmdir /old /proc
mount --bind /scratch /scratch
mount -o remount,bind,ro /
cd /scratch
unset IFS
setpriv --no-new-privs --bounding-set=-all --inh-caps=-all $who $start "$@"
exit $?
`;
