# A web server's log of LINES lines, always the same one.
BEGIN {
    srand(1)
    methods = split("GET GET GET POST HEAD", method)
    paths = split("/ /index.html /news /search /about /cart /api/items /api/users /img/logo.png /static/app.js", path)
    for (i = 0; i < lines; i++)
        printf "10.%d.%d.%d - - [%02d/Mar/2026:%02d:%02d:%02d +0000] \"%s %s?id=%d HTTP/1.1\" %d %d\n",
            rand() * 4, rand() * 256, rand() * 256, 1 + rand() * 28, rand() * 24, rand() * 60, rand() * 60,
            method[1 + int(rand() * methods)], path[1 + int(rand() * paths)], rand() * 100000,
            rand() < 0.9 ? 200 : 404, rand() * 50000
}
