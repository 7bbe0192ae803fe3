import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;

/** Chains of hashes in four threads, with some garbage, at least until there are go-1, go-2 and go-3. */
public class Chain {
    static String chain(String text, int length) throws Exception {
        var digest = MessageDigest.getInstance("SHA-256");
        for (int i = 0; i < length; i++) {
            text = HexFormat.of().formatHex(digest.digest(text.getBytes()));
        }
        return text;
    }

    public static void main(String[] arguments) throws Exception {
        var pool = Executors.newFixedThreadPool(4);
        var kept = new ArrayList<String>();
        for (int part = 1; part <= 3; part++) {
            List<Callable<String>> tasks = new ArrayList<>();
            for (int number = 0; number < 4; number++) {
                String text = "part " + part + " " + number;
                tasks.add(() -> chain(text, 3000));
            }
            for (var future : pool.invokeAll(tasks)) {
                kept.add(future.get());
            }
            String expected = chain("nothing new", 500);
            while (!Files.exists(Path.of("go-" + part))) {
                if (!chain("nothing new", 500).equals(expected)) {
                    throw new AssertionError("another sum");
                }
                Thread.sleep(5);
            }
            System.out.println(part + " " + kept.size() + " " + String.join(" ", kept));
        }
        pool.shutdown();
    }
}
