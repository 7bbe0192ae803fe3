/* Starts a process that shares its parent's memory (argument "memory") or working directory ("directory"), prints
   "ready", ends that process once there is a file "undo", prints "undone", and ends once there is a file "end". */

#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char stack[65536] __attribute__((aligned(16)));

static int child(void *argument)
{
    (void)argument;
    for (;;)
        pause();
}

static void wait_for(const char *name)
{
    while (access(name, F_OK) != 0)
        usleep(50000);
}

static void say(const char *word)
{
    puts(word);
    fflush(stdout);
}

int main(int count, char **arguments)
{
    int flags = count > 1 && strcmp(arguments[1], "directory") == 0 ? CLONE_FS : CLONE_VM;
    int pid = clone(child, stack + sizeof stack, flags | SIGCHLD, NULL);
    if (pid < 0)
        return 1;
    say("ready");
    wait_for("undo");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    say("undone");
    wait_for("end");
    return 0;
}
