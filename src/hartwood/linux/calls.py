"""The system calls of riscv64 Linux: number, host number, name, argument kinds.

One row a call, from the kernel's asm-generic and x86-64 tables. The kinds say what each argument
is; they are what `--strace` prints and, for a call marked `=`, all that is needed to pass it to
the host: layouts agree on both sides and only pointers and paths have to be translated.

Kinds: a name ending in `*` is a pointer; `path` is a file name that is followed through symbolic
links and `link` one that is not; `atflags` may hold AT_SYMLINK_NOFOLLOW and decides for `path`;
`fd` and `at` are descriptors; anything else is a plain number. A row marked `!` is answered
by ENOSYS on purpose, and counted; `-` as host number: the host has no such call.
"""

from __future__ import annotations

ROWS = """
0 206 ! io_setup nr ctx*
1 207 ! io_destroy ctx
2 209 ! io_submit ctx nr iocbs*
3 210 ! io_cancel ctx iocb* result*
4 208 ! io_getevents ctx min nr events* timeout*
5 188 = setxattr path name* value* size flags
6 189 = lsetxattr link name* value* size flags
7 190 = fsetxattr fd name* value* size flags
8 191 = getxattr path name* value* size
9 192 = lgetxattr link name* value* size
10 193 = fgetxattr fd name* value* size
11 194 = listxattr path list* size
12 195 = llistxattr link list* size
13 196 = flistxattr fd list* size
14 197 = removexattr path name*
15 198 = lremovexattr link name*
16 199 = fremovexattr fd name*
17 79 = getcwd buf* size
18 212 ! lookup_dcookie cookie buf* size
19 290 = eventfd2 count flags
20 291 = epoll_create1 flags
21 233 . epoll_ctl fd op fd event*
22 281 . epoll_pwait fd events* max timeout mask* size
23 32 = dup fd
24 292 . dup3 fd fd flags
25 72 . fcntl fd cmd arg
26 294 = inotify_init1 flags
27 254 = inotify_add_watch fd path mask
28 255 = inotify_rm_watch fd wd
29 16 . ioctl fd request arg
30 251 = ioprio_set which who prio
31 252 = ioprio_get which who
32 73 = flock fd op
33 259 = mknodat at link mode dev
34 258 = mkdirat at link mode
35 263 = unlinkat at link flags
36 266 = symlinkat target* at link
37 265 = linkat at link at link flags
39 166 = umount2 path flags
40 165 = mount source* path type* flags data*
41 155 = pivot_root path path
42 180 ! nfsservctl
43 137 = statfs path buf*
44 138 = fstatfs fd buf*
45 76 = truncate path length
46 77 = ftruncate fd length
47 285 = fallocate fd mode offset length
48 269 = faccessat at path mode
49 80 = chdir path
50 81 = fchdir fd
51 161 = chroot path
52 91 = fchmod fd mode
53 268 = fchmodat at path mode
54 260 = fchownat at path uid gid atflags
55 93 = fchown fd uid gid
56 257 . openat at path oflags mode
57 3 . close fd
58 153 = vhangup
59 293 = pipe2 fds* oflags
60 179 = quotactl cmd path id addr*
61 217 . getdents64 fd buf* size
62 8 = lseek fd offset whence
63 0 = read fd buf* size
64 1 = write fd buf* size
65 19 . readv fd iov* count
66 20 . writev fd iov* count
67 17 = pread64 fd buf* size offset
68 18 = pwrite64 fd buf* size offset
69 295 . preadv fd iov* count low high
70 296 . pwritev fd iov* count low high
71 40 = sendfile fd fd offset* count
72 270 . pselect6 n read* write* except* timeout* mask*
73 271 . ppoll fds* n timeout* mask* size
74 289 . signalfd4 fd mask* size flags
75 278 . vmsplice fd iov* count flags
76 275 = splice fd offset* fd offset* size flags
77 276 = tee fd fd size flags
78 267 . readlinkat at link buf* size
79 262 . newfstatat at path stat* atflags
80 5 . fstat fd stat*
81 162 = sync
82 74 = fsync fd
83 75 = fdatasync fd
84 277 = sync_file_range fd offset size flags
85 283 = timerfd_create clock flags
86 286 = timerfd_settime fd flags new* old*
87 287 = timerfd_gettime fd value*
88 280 = utimensat at path times* atflags
89 163 = acct path
90 125 = capget header* data*
91 126 = capset header* data*
92 135 . personality persona
93 60 . exit status
94 231 . exit_group status
95 247 = waitid type id info* options usage*
96 218 . set_tid_address tid*
97 272 . unshare flags
98 202 . futex word* op value timeout* word2* value3
99 273 . set_robust_list head* size
100 274 . get_robust_list pid head* size*
101 35 = nanosleep time* rest*
102 36 = getitimer which value*
103 38 = setitimer which new* old*
104 246 ! kexec_load
105 175 ! init_module image* size params*
106 176 ! delete_module name* flags
107 222 . timer_create clock event* id*
108 224 = timer_gettime id value*
109 225 = timer_getoverrun id
110 223 = timer_settime id flags new* old*
111 226 = timer_delete id
112 227 = clock_settime clock time*
113 228 = clock_gettime clock time*
114 229 = clock_getres clock time*
115 230 = clock_nanosleep clock flags time* rest*
116 103 = syslog type buf* size
117 101 ! ptrace request pid addr data
118 142 = sched_setparam pid param*
119 144 = sched_setscheduler pid policy param*
120 145 = sched_getscheduler pid
121 143 = sched_getparam pid param*
122 203 = sched_setaffinity pid size mask*
123 204 = sched_getaffinity pid size mask*
124 24 = sched_yield
125 146 = sched_get_priority_max policy
126 147 = sched_get_priority_min policy
127 148 = sched_rr_get_interval pid time*
128 219 . restart_syscall
129 62 . kill pid sig
130 200 . tkill tid sig
131 234 . tgkill pid tid sig
132 131 . sigaltstack new* old*
133 130 . rt_sigsuspend mask* size
134 13 . rt_sigaction sig new* old* size
135 14 . rt_sigprocmask how new* old* size
136 127 . rt_sigpending set* size
137 128 . rt_sigtimedwait set* info* timeout* size
138 129 = rt_sigqueueinfo pid sig info*
139 15 . rt_sigreturn
140 141 = setpriority which who prio
141 140 = getpriority which who
142 169 ! reboot magic magic2 cmd arg*
143 114 = setregid rgid egid
144 106 = setgid gid
145 113 = setreuid ruid euid
146 105 = setuid uid
147 117 = setresuid ruid euid suid
148 118 = getresuid ruid* euid* suid*
149 119 = setresgid rgid egid sgid
150 120 = getresgid rgid* egid* sgid*
151 122 = setfsuid uid
152 123 = setfsgid gid
153 100 = times buf*
154 109 = setpgid pid pgid
155 121 = getpgid pid
156 124 = getsid pid
157 112 = setsid
158 115 = getgroups size list*
159 116 = setgroups size list*
160 63 . uname buf*
161 170 = sethostname name* size
162 171 = setdomainname name* size
163 97 . getrlimit resource limit*
164 160 . setrlimit resource limit*
165 98 = getrusage who usage*
166 95 = umask mask
167 157 . prctl option a b c d
168 309 = getcpu cpu* node* unused*
169 96 = gettimeofday time* zone*
170 164 = settimeofday time* zone*
171 159 = adjtimex buf*
172 39 . getpid
173 110 = getppid
174 102 = getuid
175 107 = geteuid
176 104 = getgid
177 108 = getegid
178 186 . gettid
179 99 = sysinfo info*
180 240 = mq_open name* oflags mode attr*
181 241 = mq_unlink name*
182 242 = mq_timedsend mq msg* size prio timeout*
183 243 = mq_timedreceive mq msg* size prio* timeout*
184 244 . mq_notify mq event*
185 245 = mq_getsetattr mq new* old*
186 68 = msgget key flags
187 71 = msgctl id cmd buf*
188 70 = msgrcv id msg* size type flags
189 69 = msgsnd id msg* size flags
190 64 = semget key n flags
191 66 . semctl id n cmd arg
192 220 = semtimedop id ops* n timeout*
193 65 = semop id ops* n
194 29 = shmget key size flags
195 31 = shmctl id cmd buf*
196 30 . shmat id addr flags
197 67 . shmdt addr
198 41 = socket domain type protocol
199 53 = socketpair domain type protocol fds*
200 49 . bind fd addr* size
201 50 = listen fd backlog
202 43 = accept fd addr* size*
203 42 . connect fd addr* size
204 51 = getsockname fd addr* size*
205 52 = getpeername fd addr* size*
206 44 = sendto fd buf* size flags addr* addrsize
207 45 = recvfrom fd buf* size flags addr* addrsize*
208 54 . setsockopt fd level option value* size
209 55 = getsockopt fd level option value* size*
210 48 = shutdown fd how
211 46 . sendmsg fd msg* flags
212 47 . recvmsg fd msg* flags
213 187 = readahead fd offset count
214 12 . brk addr
215 11 . munmap addr size
216 25 . mremap addr old new flags target
217 248 = add_key type* name* data* size ring
218 249 = request_key type* name* info* ring
219 250 ! keyctl op a b c d
220 56 . clone flags stack ptid* tls ctid*
221 59 . execve path argv* envp*
222 9 . mmap addr size prot mflags fd offset
223 221 = fadvise64 fd offset size advice
224 167 = swapon path flags
225 168 = swapoff path
226 10 . mprotect addr size prot
227 26 . msync addr size flags
228 149 . mlock addr size
229 150 . munlock addr size
230 151 . mlockall flags
231 152 = munlockall
232 27 . mincore addr size vec*
233 28 . madvise addr size advice
234 216 ! remap_file_pages addr size prot offset flags
235 237 ! mbind addr size mode mask* maxnode flags
236 239 = get_mempolicy mode* mask* maxnode addr* flags
237 238 = set_mempolicy mode mask* maxnode
238 256 ! migrate_pages pid n old* new*
239 279 ! move_pages pid n pages* nodes* status* flags
240 297 = rt_tgsigqueueinfo pid tid sig info*
241 298 ! perf_event_open attr* pid cpu group flags
242 288 = accept4 fd addr* size* flags
243 299 . recvmmsg fd msgs* count flags timeout*
258 - . riscv_hwprobe pairs* count size cpus* flags
259 - . riscv_flush_icache start end flags
260 61 = wait4 pid status* options usage*
261 302 . prlimit64 pid resource new* old*
262 300 = fanotify_init flags oflags
263 301 ! fanotify_mark fd flags mask at path*
264 303 = name_to_handle_at at path handle* mount* flags
265 304 = open_by_handle_at fd handle* oflags
266 305 = clock_adjtime clock buf*
267 306 = syncfs fd
268 308 = setns fd type
269 307 . sendmmsg fd msgs* count flags
270 310 . process_vm_readv pid local* n remote* m flags
271 311 . process_vm_writev pid local* n remote* m flags
272 312 = kcmp pid pid2 type a b
273 313 ! finit_module fd params* flags
274 314 = sched_setattr pid attr* flags
275 315 = sched_getattr pid attr* size flags
276 316 = renameat2 at link at link flags
277 317 ! seccomp op flags args*
278 318 = getrandom buf* size flags
279 319 = memfd_create name* flags
280 321 ! bpf cmd attr* size
281 322 . execveat at path argv* envp* flags
282 323 ! userfaultfd flags
283 324 = membarrier cmd flags cpu
284 325 . mlock2 addr size flags
285 326 = copy_file_range fd offset* fd offset* size flags
286 327 . preadv2 fd iov* count low high flags
287 328 . pwritev2 fd iov* count low high flags
288 329 . pkey_mprotect addr size prot key
289 330 ! pkey_alloc flags rights
290 331 ! pkey_free key
291 332 = statx at path atflags mask buf*
292 333 ! io_pgetevents ctx min nr events* timeout* sig*
293 334 ! rseq area* size flags signature
294 320 ! kexec_file_load fd fd size cmd* flags
424 424 = pidfd_send_signal fd sig info* flags
425 425 ! io_uring_setup entries params*
426 426 ! io_uring_enter fd submit complete flags mask* size
427 427 ! io_uring_register fd op arg* n
428 428 ! open_tree at path* flags
429 429 ! move_mount at path* at path* flags
430 430 ! fsopen name* flags
431 431 ! fsconfig fd cmd key* value* aux
432 432 ! fsmount fd flags attrs
433 433 ! fspick at path* flags
434 434 = pidfd_open pid flags
435 435 . clone3 args* size
436 436 . close_range fd fd flags
437 437 . openat2 at path how* size
438 438 = pidfd_getfd fd target flags
439 439 = faccessat2 at path mode atflags
440 440 ! process_madvise fd iov* n advice flags
441 441 . epoll_pwait2 fd events* max timeout* mask* size
442 442 ! mount_setattr at path* flags attr* size
443 443 ! quotactl_fd fd cmd id addr*
444 444 ! landlock_create_ruleset attr* size flags
445 445 ! landlock_add_rule fd type attr* flags
446 446 ! landlock_restrict_self fd flags
447 447 ! memfd_secret flags
448 448 = process_mrelease fd flags
449 449 . futex_waitv waiters* n flags timeout* clock
450 450 ! set_mempolicy_home_node start size node flags
452 452 = fchmodat2 at path mode atflags
"""


class Row:
    """One system call: `host` is None where the host has none, `kinds` its argument kinds.

    `how` is "=" (passed to the host as it is), "." (has a handler) or "!" (ENOSYS on purpose).
    """

    __slots__ = ("host", "how", "kinds", "name", "number")

    def __init__(self, line: str) -> None:
        number, host, self.how, self.name, *kinds = line.split()
        self.number = int(number)
        self.host = None if host == "-" else int(host)
        self.kinds = tuple(kinds)


#: Row text by riscv64 number; parsed one at a time, when a program first makes the call.
LINES: dict[int, str] = {int(line[: line.index(" ")]): line for line in ROWS.split("\n") if line}


def row(number: int) -> Row | None:
    """The call with this riscv64 number, or None for an unknown one."""
    line = LINES.get(number)
    return None if line is None else Row(line)


class _HostNumbers(dict[str, int]):
    """Host number by name, filled as names are asked for: most runs need a dozen."""

    def __missing__(self, name: str) -> int:
        for line in LINES.values():
            fields = line.split(None, 4)
            if fields[3] == name and fields[1] != "-":
                self[name] = int(fields[1])
                return self[name]
        raise KeyError(name)


#: The host's number of a call that both have: `HOST["read"]`.
HOST = _HostNumbers()
