// GET the URL of the second argument with the client that the first one names. Java reads no proxy from the environment:
// host and port are properties (https.proxyHost, https.proxyPort), user and password are an Authenticator's.
import java.io.FileInputStream;
import java.net.Authenticator;
import java.net.PasswordAuthentication;
import java.net.ProxySelector;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Fetch {
    public static void main(String[] arguments) throws Exception {
        SSLContext trust = trusting(System.getenv("SSL_CERT_FILE"));
        String user = URI.create(System.getenv("HTTPS_PROXY")).getUserInfo();
        Authenticator authenticator = user == null ? null : new Authenticator() {
            @Override
            protected PasswordAuthentication getPasswordAuthentication() {
                String[] parts = user.split(":", 2);
                return new PasswordAuthentication(parts[0], parts[1].toCharArray());
            }
        };
        if (arguments[0].equals("HttpClient")) {
            HttpClient.Builder builder = HttpClient.newBuilder().sslContext(trust).proxy(ProxySelector.getDefault());
            HttpClient client = (user == null ? builder : builder.authenticator(authenticator)).build();
            var response = client.send(HttpRequest.newBuilder(URI.create(arguments[1])).build(), BodyHandlers.ofString());
            if (response.statusCode() != 200) {
                throw new java.io.IOException("status " + response.statusCode());
            }
            System.out.print(response.body());
        } else {
            Authenticator.setDefault(authenticator);
            HttpsURLConnection connection = (HttpsURLConnection) new URL(arguments[1]).openConnection();
            connection.setSSLSocketFactory(trust.getSocketFactory());
            System.out.print(new String(connection.getInputStream().readAllBytes()));
        }
    }

    static SSLContext trusting(String file) throws Exception {
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        store.load(null, null);
        try (FileInputStream stream = new FileInputStream(file)) {
            int number = 0;
            for (var certificate : CertificateFactory.getInstance("X.509").generateCertificates(stream)) {
                store.setCertificateEntry("authority" + number++, certificate);
            }
        }
        TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(store);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }
}
