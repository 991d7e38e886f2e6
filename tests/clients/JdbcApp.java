import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Security;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ThreadLocalRandom;

/**
 * pgjdbc with prepared statements, and what a pool such as HikariCP does: isValid() before a
 * connection is used, and another attempt to connect for some seconds. What it does and prints is
 * in ledger.py.
 */
public final class JdbcApp {
  private static final int WORKERS = 8;
  private static final long PAUSE_MS = 1000;
  private static final long SECONDS_MAX = 300;
  private static final long CONNECT_MS = 10_000;
  private static final Path STOP = Path.of("/run/secrets/stop");

  private static final long ENDS = System.currentTimeMillis() + SECONDS_MAX * 1000;
  private static final int[] ATTEMPTED = new int[WORKERS];
  private static final List<String> ABSENT = new ArrayList<>();
  private static final List<String> UNKNOWN = new ArrayList<>();
  private static final List<String> ERRORS = new ArrayList<>();

  private final int worker;
  private int absent;
  private int unknown;
  private String phase = "begin";
  private Connection connection;

  private JdbcApp(int worker) {
    this.worker = worker;
  }

  public static void main(String[] arguments) throws Exception {
    // A name of several replicas: Java tries its first address only, so ask for it each time.
    Security.setProperty("networkaddress.cache.ttl", "0");
    ExecutorService threads = Executors.newFixedThreadPool(WORKERS);
    List<Future<?>> running = new ArrayList<>();
    for (int worker = 0; worker < WORKERS; worker++) {
      running.add(threads.submit(new JdbcApp(worker)::work));
    }
    for (Future<?> one : running) {
      one.get();
    }
    threads.shutdown();
    List<String> attempted = new ArrayList<>();
    for (int count : ATTEMPTED) {
      attempted.add(Integer.toString(count));
    }
    System.out.printf(
        "{\"attempted\": %s, \"absent\": %s, \"unknown\": %s, \"errors\": %s}%n",
        list(attempted), list(ABSENT), list(UNKNOWN), list(ERRORS));
  }

  private static String list(List<String> items) {
    return "[" + String.join(", ", items) + "]";
  }

  private Void work() throws InterruptedException {
    while (System.currentTimeMillis() < ENDS && !Files.exists(STOP)) {
      int number = ATTEMPTED[worker]++;
      phase = "begin";
      try {
        lend();
        transaction(number);
        lend();
        read(number);
      } catch (SQLException | java.io.IOException | IllegalStateException error) {
        record(number, error);
        close();
      }
      Thread.sleep(ThreadLocalRandom.current().nextLong(PAUSE_MS));
    }
    close();
    return null;
  }

  private void lend() throws SQLException, java.io.IOException, InterruptedException {
    if (connection != null && !connection.isValid(5)) {
      close();
    }
    long until = System.currentTimeMillis() + CONNECT_MS;
    while (connection == null) {
      try {
        connection = connect();
      } catch (SQLException error) {
        if (System.currentTimeMillis() > until) {
          throw error;
        }
        Thread.sleep(100);
      }
    }
  }

  private static Connection connect() throws SQLException, java.io.IOException {
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
    properties.setProperty("connectTimeout", "5");
    return DriverManager.getConnection(url, properties);
  }

  private void transaction(int number) throws SQLException {
    connection.setAutoCommit(false);
    try (PreparedStatement insert =
            connection.prepareStatement("INSERT INTO jdbc_entry (worker, number) VALUES (?, ?)");
        PreparedStatement update =
            connection.prepareStatement(
                "UPDATE jdbc_total SET entries = entries + 1 WHERE worker = ?")) {
      insert.setInt(1, worker);
      insert.setInt(2, number);
      insert.executeUpdate();
      update.setInt(1, worker);
      update.executeUpdate();
      phase = "commit";
      connection.commit();
      phase = "read";
    }
    connection.setAutoCommit(true);
  }

  private void read(int number) throws SQLException {
    try (PreparedStatement select =
        connection.prepareStatement("SELECT entries FROM jdbc_total WHERE worker = ?")) {
      select.setInt(1, worker);
      try (ResultSet rows = select.executeQuery()) {
        rows.next();
        int entries = rows.getInt(1);
        int most = number + 1 - absent;
        if (entries < most - unknown || entries > most) {
          throw new IllegalStateException(
              String.format(
                  "read %d entries after %d, of which %d unknown", entries, most, unknown));
        }
      }
    }
  }

  private void close() {
    try {
      if (connection != null) {
        connection.close();
      }
    } catch (SQLException error) {
      // It is gone already.
    }
    connection = null;
  }

  private void record(int number, Exception error) {
    String text = error.getClass().getSimpleName() + ": " + error.getMessage();
    String kind = text.split("\n")[0].replace("\\", "/").replace("\"", "'");
    synchronized (ERRORS) {
      String failed = String.format("[%d, %d]", worker, number);
      if (phase.equals("begin")) {
        ABSENT.add(failed);
        absent++;
      } else if (phase.equals("commit")) {
        UNKNOWN.add(failed);
        unknown++;
      }
      ERRORS.add(
          String.format(
              "{\"at\": %.3f, \"phase\": \"%s\", \"kind\": \"%s\"}",
              System.currentTimeMillis() / 1000.0, phase, kind));
    }
  }
}
