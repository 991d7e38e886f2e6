import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Security;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;

/** pgjdbc: what it does and prints is in cancels.py. */
public final class Cancels {
  private static final int VICTIMS = 2;
  private static final String STATEMENT =
      "DO $$ BEGIN RAISE NOTICE 'runs'; PERFORM pg_sleep(2); RAISE NOTICE 'ended'; END $$";
  private static final String BYSTANDER = "SELECT pg_sleep(0.002)";
  private static final String CANCELLED = "57014";

  private static final AtomicInteger LEFT = new AtomicInteger();
  private static final AtomicInteger SENT = new AtomicInteger();
  private static final AtomicInteger LOST = new AtomicInteger();
  private static final AtomicInteger WRONG = new AtomicInteger();
  private static final AtomicInteger BESIDE = new AtomicInteger();
  private static final List<String> OTHER = Collections.synchronizedList(new ArrayList<>());
  private static volatile boolean ending;

  private Cancels() {}

  public static void main(String[] arguments) throws Exception {
    // A name of several replicas: ask for it each time.
    Security.setProperty("networkaddress.cache.ttl", "0");
    LEFT.set(Integer.parseInt(arguments[0]));
    ExecutorService threads = Executors.newCachedThreadPool();
    List<Future<Void>> beside = start(threads, Cancels::standBy);
    for (Future<Void> one : start(threads, () -> cancel(threads))) {
      one.get();
    }
    ending = true;
    for (Future<Void> one : beside) {
      one.get();
    }
    threads.shutdown();
    System.out.printf(
        "{\"sent\": %s, \"lost\": %s, \"wrong\": %s, \"beside\": %s, \"other\": [%s]}%n",
        SENT, LOST, WRONG, BESIDE, String.join(", ", OTHER));
  }

  private static List<Future<Void>> start(ExecutorService threads, Callable<Void> work) {
    List<Future<Void>> started = new ArrayList<>();
    for (int one = 0; one < VICTIMS; one++) {
      started.add(threads.submit(work));
    }
    return started;
  }

  private static Void cancel(ExecutorService threads) throws Exception {
    try (Connection connection = connect()) {
      while (LEFT.getAndDecrement() > 0) {
        try (Statement statement = connection.createStatement()) {
          Future<SQLException> running = threads.submit(() -> run(statement));
          while (!said(statement, "runs")) {
            Thread.sleep(2);
          }
          statement.cancel();
          SQLException error = running.get();
          SENT.incrementAndGet();
          if (said(statement, "ended")) {
            LOST.incrementAndGet();
          } else if (error == null || !CANCELLED.equals(error.getSQLState())) {
            OTHER.add('"' + String.valueOf(error).replace('"', '\'').replace('\n', ' ') + '"');
          }
        }
      }
    }
    return null;
  }

  private static SQLException run(Statement statement) {
    try {
      statement.execute(STATEMENT);
      return null;
    } catch (SQLException error) {
      return error;
    }
  }

  private static boolean said(Statement statement, String word) throws SQLException {
    for (SQLWarning one = statement.getWarnings(); one != null; one = one.getNextWarning()) {
      if (word.equals(one.getMessage())) {
        return true;
      }
    }
    return false;
  }

  private static Void standBy() throws Exception {
    try (Connection connection = connect();
        Statement statement = connection.createStatement()) {
      while (!ending) {
        try {
          statement.execute(BYSTANDER);
          BESIDE.incrementAndGet();
        } catch (SQLException error) {
          if (!CANCELLED.equals(error.getSQLState())) {
            throw error;
          }
          WRONG.incrementAndGet();
        }
      }
    }
    return null;
  }

  private static Connection connect() throws Exception {
    String url =
        String.format(
            "jdbc:postgresql://%s:%s/%s",
            System.getenv("PGHOST"), System.getenv("PGPORT"), System.getenv("PGDATABASE"));
    String user = System.getenv("PGUSER");
    Properties properties = new Properties();
    properties.setProperty("user", user);
    properties.setProperty(
        "password", Files.readString(Path.of("/run/secrets/" + user + ".password")));
    properties.setProperty("sslmode", "verify-full");
    properties.setProperty("sslrootcert", System.getenv("PGSSLROOTCERT"));
    return DriverManager.getConnection(url, properties);
  }
}
